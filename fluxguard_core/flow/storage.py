"""Where and how a trajectory keeps its tensors: device, number format, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Place = Literal["compute", "pinned", "cpu"]
Format = Literal["computed", "bf16", "fp8"]

_DTYPES: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
_FP8_MAX = torch.finfo(torch.float8_e4m3fn).max


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor at rest. ``scale`` undoes the per-tensor scaling of fp8; it is None otherwise."""

    data: Tensor
    scale: Tensor | None
    dtype: torch.dtype  # as it was computed

    def load(self, device: torch.device) -> Tensor:
        """The tensor on ``device`` in the format it was computed in."""
        moved = self.data.to(device, non_blocking=True).to(self.dtype)
        return moved if self.scale is None else moved * self.scale.to(device, self.dtype)

    @property
    def bytes(self) -> int:
        return self.data.nbytes


@dataclass(frozen=True)
class Storage:
    """Where tensors wait until they are used again.

    Args:
        place: ``compute`` keeps them on the device that made them; ``pinned`` copies asynchronously to
            page-locked memory (plain memory where there is no CUDA device); ``cpu`` copies and waits.
        format: ``computed`` loses nothing; ``bf16`` halves float32; ``fp8`` (e4m3 with one scale a tensor)
            quarters it, with about 3 % relative error.
    """

    place: Place = field(default="cpu")
    format: Format = field(default="computed")

    def put(self, tensor: Tensor) -> Stored:
        """Bring a tensor to rest."""
        tensor = tensor.detach()
        data, scale = tensor, None
        if self.format == "fp8":
            scale = (tensor.abs().amax().float() / _FP8_MAX).clamp(
                min=torch.finfo(torch.float32).tiny
            )
            data = (tensor.float() / scale).to(torch.float8_e4m3fn)
        elif self.format != "computed":
            data = tensor.to(_DTYPES[self.format])
        if self.place == "pinned" and data.is_cuda:
            pinned = torch.empty(data.shape, dtype=data.dtype, device="cpu", pin_memory=True)
            return Stored(pinned.copy_(data, non_blocking=True), scale, tensor.dtype)
        moved = data if self.place == "compute" else data.to("cpu")
        if moved.untyped_storage().nbytes() > moved.nbytes:
            moved = moved.clone()  # a view would keep the whole of a larger tensor alive
        return Stored(moved, scale, tensor.dtype)

    def bytes_per_element(self, computed: torch.dtype) -> int:
        """Bytes that one element of a tensor computed in ``computed`` takes here."""
        return _DTYPES.get(self.format, computed).itemsize


AS_COMPUTED = Storage()
"""Ordinary memory, nothing lost."""
