"""From a weight file to a face encoder, without ever executing what is in the file."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import FluxGuardError
from .detect_layout import build_network, unwrap
from .encoder import Colour, FaceEncoder, Threshold
from .thresholds import read_thresholds

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_MINIMUM_BYTES = 1024


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
    except SafetensorError as error:
        raise FluxGuardError(
            f"{path.name} is not a whole safetensors file ({error}); it is truncated or something "
            "else under that name. Download it again."
        ) from error


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FluxGuardError(
            f"{path.name} holds more than tensors, and loading it could run foreign code; expected "
            "a plain state dict. Use a safetensors version of the model."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise FluxGuardError(
            f"{path.name} is not a whole PyTorch file ({str(error).splitlines()[0]}); it is "
            "truncated or something else under that name. Download it again."
        ) from error
    if not isinstance(content, Mapping):
        raise FluxGuardError(
            f"{path.name} holds {type(content).__name__}, expected a state dict of a recogniser."
        )
    return dict(content)


def _tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Flatten nested dictionaries ("state_dict", "model" ...) to dotted names, tensors only."""
    flat: dict[str, Tensor] = {}
    for key, value in content.items():
        if isinstance(value, Tensor):
            flat[str(key)] = value
        elif isinstance(value, Mapping):
            flat.update({f"{key}.{name}": tensor for name, tensor in _tensors(value).items()})
    return flat


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by unwrapped name, and the metadata (empty unless safetensors).

    Raises FluxGuardError for files that are missing, truncated, foreign or of an unknown suffix.
    """
    if not path.is_file():
        raise FluxGuardError(f"There is no file {path}; check the path or download the model.")
    if path.suffix.lower() not in SUFFIXES:
        raise FluxGuardError(
            f"{path.name}: expected a recogniser as {', '.join(SUFFIXES)}; got {path.suffix!r}."
        )
    if path.stat().st_size < _MINIMUM_BYTES:
        raise FluxGuardError(
            f"{path.name} has {path.stat().st_size} bytes, too few for a recogniser; it is a "
            "failed download or a Git LFS pointer. Download it again."
        )
    if path.suffix.lower() == ".safetensors":
        tensors, metadata = _read_safetensors(path)
        return unwrap(tensors), metadata
    return unwrap(_tensors(_read_torch(path))), {}


def _metadata_thresholds(metadata: Mapping[str, str]) -> tuple[Threshold, ...]:
    entries = json.loads(metadata.get("thresholds", "[]"))
    return tuple(Threshold(float(e["far"]), float(e["value"]), str(e["source"])) for e in entries)


def load_encoder(
    path: str | Path, *, name: str | None = None, colour: Colour | None = None
) -> FaceEncoder:
    """Load a recogniser from safetensors or a PyTorch state dict; the layout is detected.

    Thresholds are the user's own calibration beside the file, else those in its metadata, else
    the published ones of the model. `colour` overrides the publishers' channel order ("both"
    averages RGB and BGR). Raises FluxGuardError when the file is unusable.
    """
    path = Path(path)
    state, metadata = read_state(path)
    network, layout = build_network(state)
    own = read_thresholds(path) or _metadata_thresholds(metadata)
    encoder = FaceEncoder(
        name or metadata.get("name") or layout.name,
        network,
        int(metadata.get("size", layout.size)),
        colour=layout.colour,
        thresholds=own or layout.thresholds,
    )
    return encoder if colour is None else replace(encoder, colour=colour)
