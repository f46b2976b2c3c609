"""Tiny autoencoders in two files, as they are published: either names the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..errors import FluxGuardError
from ..weights.loading import load_tensors
from .taesd import WIDTH


def with_other_half(state: Mapping[str, Tensor], path: Path) -> Mapping[str, Tensor]:
    """A tiny autoencoder in two files, NAME_encoder and NAME_decoder, as one; other states as they are.

    Raises:
        FluxGuardError: the other half does not lie beside this one.
    """
    half = _half(state)
    if half is None:
        return state
    other = "decoder" if half == "encoder" else "encoder"
    companion = path.with_name(path.name.replace(half, other))
    if companion == path or not companion.is_file():
        raise FluxGuardError(
            f"{path.name} is only the {half} of a tiny autoencoder, and its {other} {companion.name} does not lie "
            "beside it.",
            "Put both into one folder, named alike but for encoder and decoder.",
        )
    rest = load_tensors(companion)[0]
    if _half(rest) != other:
        raise FluxGuardError(
            f"{companion.name} is not the {other} that {path.name} needs.", "Fetch both again."
        )
    halves = {half: state, other: rest}
    return {f"taesd_{name}.{key}": value for name in halves for key, value in halves[name].items()}


def _half(state: Mapping[str, Tensor]) -> str | None:
    """Which half bare TAESD names are of: an encoder begins with a picture, a decoder with its clamp."""
    first = state.get("0.weight")
    if first is not None and tuple(first.shape) == (WIDTH, 3, 3, 3):
        return "encoder"
    second = state.get("1.weight")
    entrance = first is None and second is not None and second.ndim == 4
    return "decoder" if entrance and "3.conv.0.weight" in state else None
