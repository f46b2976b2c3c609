"""fp8 weights with scales beside them, as ComfyUI and diffusers store them, back to plain numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import FluxGuardError

# The scale of a weight, and of the values that meet it: plain arithmetic needs only the first.
_SCALES = ("scale_weight", "weight_scale")
_LEFT_OUT = ("scale_input", "input_scale", "comfy_quant")
_MARKER = "scaled_fp8"
_EIGHT_BITS = tuple(
    getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name)
)


def without_scales(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The state with each scaled weight multiplied out (float32) and the scales gone.

    Raises:
        FluxGuardError: the file says that it is scaled, but a scale is missing or of another kind.
    """
    told = any(key.rpartition(".")[2] in (_MARKER, "comfy_quant") for key in state)
    scales = {
        key.rpartition(".")[0]: tensor
        for key, tensor in state.items()
        if key.rpartition(".")[2] in _SCALES
    }
    if not scales and not told:
        return dict(state)
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        if leaf in (*_SCALES, *_LEFT_OUT, _MARKER):
            continue
        if leaf == "weight" and module in scales:
            out[key] = _times(tensor, scales[module], key, name)
        elif tensor.dtype in _EIGHT_BITS and tensor.ndim == 2:
            raise FluxGuardError(
                f"{name} is an fp8 file with scaled weights, but the scale of {key} is missing: without it the "
                "weights mean nothing.",
                "Fetch the file again, or choose the bf16 or the plain fp8 version.",
            )
        else:
            out[key] = tensor
    return out


def _times(weight: Tensor, scale: Tensor, key: str, name: str) -> Tensor:
    """One scale for the matrix, or one for each row."""
    rows = weight.shape[0]
    if weight.dtype not in _EIGHT_BITS or scale.numel() not in (1, rows):
        raise FluxGuardError(
            f"{name} is quantised in a form that is not read: {key} has the format {weight.dtype} and scales "
            f"{tuple(scale.shape)}; read are fp8 weights with one scale, or one a row.",
            "Choose the bf16 or the plain fp8 version.",
        )
    return weight.float() * scale.float().reshape(-1, *[1] * (weight.ndim - 1))
