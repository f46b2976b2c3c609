"""Where and how a trajectory keeps its tensors: device, number format, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..devices import abilities
from .pinned import CUDA_PINNING, BlockPool, Pinning, Slab

Place = Literal["compute", "pinned", "cpu"]
Format = Literal["computed", "bf16", "fp8"]

_DTYPES: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
_FP8_MAX = torch.finfo(torch.float8_e4m3fn).max


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor at rest.

    Args:
        scale: undoes the per-tensor scaling of fp8; None otherwise.
        dtype: number format in which it was computed.
        slab: the page-locked memory that ``data`` is a part of; None where it lies elsewhere.
    """

    data: Tensor
    scale: Tensor | None
    dtype: torch.dtype
    slab: Slab | None = None

    def load(self, device: torch.device) -> Tensor:
        """The tensor on ``device`` in the format it was computed in."""
        data = self.data
        if data.dtype == _DTYPES["fp8"] and not abilities(device).fp8:
            data = data.to(self.dtype)
        locked = self.slab is not None and self.slab.locked
        moved = data.to(device, non_blocking=locked and abilities(device).asynchronous)
        moved = moved.to(self.dtype)
        return moved if self.scale is None else moved * self.scale.to(device, self.dtype)

    @property
    def bytes(self) -> int:
        return self.data.nbytes


@dataclass(frozen=True)
class Storage:
    """Where tensors wait until they are used again.

    Args:
        place: ``compute`` keeps them on the device that made them; ``pinned`` copies asynchronously to
            page-locked memory (to ordinary memory where the device or its owner has none); ``cpu`` copies and
            waits.
        format: ``computed`` loses nothing; ``bf16`` halves float32; ``fp8`` (e4m3 with one scale a tensor)
            quarters it, with about 3 % relative error.
        pinning: who locks memory; a host that keeps a budget gives its own.
    """

    place: Place = field(default="cpu")
    format: Format = field(default="computed")
    pinning: Pinning = CUDA_PINNING

    def shelf(self, expected: int = 1) -> Shelf:
        """Room for ``expected`` tensors of one size."""
        return Shelf(self, BlockPool(self.pinning, expected))

    def put(self, tensor: Tensor) -> Stored:
        """Bring a single tensor to rest."""
        return self.shelf().put(tensor)

    def bytes_per_element(self, computed: torch.dtype) -> int:
        """Bytes that one element of a tensor computed in ``computed`` takes here."""
        return _DTYPES.get(self.format, computed).itemsize


@dataclass(frozen=True, eq=False)
class Shelf:
    """Tensors of one size, brought to rest as their storage says."""

    storage: Storage
    pool: BlockPool

    def put(self, tensor: Tensor) -> Stored:
        """Bring a tensor to rest."""
        computed, can = tensor.dtype, abilities(tensor.device)
        tensor = tensor.detach()
        if self.storage.format == "fp8" and not can.fp8:
            tensor = tensor.cpu()
        data, scale = _formatted(tensor, self.storage.format)
        if self.storage.place == "pinned" and abilities(data.device).asynchronous:
            room, slab = self.pool.take(data)
            room.copy_(data, non_blocking=slab.locked)
            return Stored(room, scale, computed, slab)
        moved = data if self.storage.place == "compute" else data.to("cpu")
        if moved.untyped_storage().nbytes() > moved.nbytes:
            moved = moved.clone()  # a view would keep the whole of a larger tensor alive
        return Stored(moved, scale, computed)


def _formatted(tensor: Tensor, form: Format) -> tuple[Tensor, Tensor | None]:
    """A tensor in the format that it is kept in, and the scale that undoes fp8's scaling."""
    if form == "computed":
        return tensor, None
    if form == "bf16":
        return tensor.to(_DTYPES[form]), None
    smallest = torch.finfo(torch.float32).tiny
    scale = (tensor.abs().amax().float() / _FP8_MAX).clamp(min=smallest)
    return (tensor.float() / scale).to(_DTYPES[form]), scale


AS_COMPUTED = Storage()
"""Ordinary memory, nothing lost."""
