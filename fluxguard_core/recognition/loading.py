"""From a weight file to a face encoder, without ever executing what is in the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import FluxGuardError
from ..weights.loading import file_kind, load_tensors
from ..weights.manifest import Entry
from ..weights.world import world_of_file
from .detect_layout import build_network, unwrap
from .encoder import Colour, FaceEncoder, Strangers, Threshold
from .input import InputNote, told
from .thresholds import calibrated, parse_strangers, parse_thresholds


def _metadata_thresholds(path: Path, metadata: Mapping[str, str]) -> tuple[Threshold, ...]:
    text = metadata.get("thresholds")
    if text is None:
        return ()
    try:
        return parse_thresholds(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise FluxGuardError(
            f"{path} carries thresholds that cannot be read ({error}).", "Download it again."
        ) from error


def _metadata_strangers(path: Path, metadata: Mapping[str, str]) -> Strangers | None:
    text = metadata.get("strangers")
    if text is None:
        return None
    try:
        return parse_strangers(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise FluxGuardError(
            f"{path} carries figures on strangers that cannot be read ({error}).",
            "Download it again.",
        ) from error


def load_encoder(
    path: str | Path,
    *,
    name: str | None = None,
    colour: Colour | None = None,
    note: InputNote | None = None,
    expected: Entry | None = None,
) -> FaceEncoder:
    """Load a recogniser from safetensors, a PyTorch state dict or ONNX; the layout is detected.

    Thresholds are the user's own calibration beside the file, else those in its metadata, else
    the published ones of the model. `colour` overrides the calibration's and the publishers'
    channel order ("both" averages RGB and BGR); `note` comes before the note beside the file (see
    `input`). With `expected`, size and sha256 are held against the manifest. Raises FluxGuardError when the file is missing, truncated, foreign, altered or unsafe.
    """
    path = Path(path)
    if path.is_file() and file_kind(path) == "onnx":
        from .onnx import load_onnx_encoder

        return load_onnx_encoder(path, name=name, colour=colour, note=note)
    # Weights made under inference mode could never take part in a gradient.
    with torch.inference_mode(False):
        tensors, metadata = load_tensors(path, expected=expected)
        network, layout = build_network(unwrap(tensors))
    encoder = FaceEncoder(
        name or metadata.get("name") or layout.name,
        network,
        int(metadata.get("size", layout.size)),
        colour=layout.colour,
        thresholds=_metadata_thresholds(path, metadata) or layout.thresholds,
        world=world_of_file(path, metadata),
        strangers=_metadata_strangers(path, metadata),
    )
    encoder = told(path, note, colour).apply(encoder)
    return calibrated(encoder, path, chosen=colour)
