"""Page-locked memory at its real size, in blocks, with plain memory where a lock is refused.

PyTorch's own pinned memory rounds every tensor up to a power of two and never gives it back. Here plain memory is
taken in slabs of equal blocks and locked where it lies, as far as whoever keeps the budget allows.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import FluxGuardError

_SLAB = 512 * 2**20  # a refused lock costs the fast copies of so much, not of the whole record
_ALIGNMENT = 64  # bytes


def _log(text: str) -> None:
    logging.getLogger(__name__).warning("%s", text)


@dataclass(frozen=True)
class Pinning:
    """Who locks memory, and how.

    Args:
        pin: lock a tensor of plain memory; False where that is refused.
        unpin: let it go again.
        tell: says once in words what a refusal means.
    """

    pin: Callable[[Tensor], bool]
    unpin: Callable[[Tensor], object]
    tell: Callable[[str], None] = _log


def _register(memory: Tensor) -> bool:
    refused = int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 1))
    if refused:
        _forget_error()
    return not refused


def _unregister(memory: Tensor) -> None:
    torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())


def _forget_error() -> None:
    """A refusal stays with the driver and would fail the next kernel, which has nothing to do with it."""
    try:
        torch.zeros(1, device="cuda").add_(1)
        torch.cuda.synchronize()
    except RuntimeError:
        pass


CUDA_PINNING = Pinning(_register, _unregister)
"""CUDA's own lock, for programs in which nobody else keeps a budget."""


@dataclass(eq=False)
class Slab:
    """Memory for a number of blocks of one size; unlocked when nobody holds a block any more."""

    memory: Tensor  # uint8
    step: int
    locked: bool
    used: int = 0

    def block(self, like: Tensor) -> Tensor:
        """The next block, in shape and number format of a tensor."""
        start = self.used * self.step
        self.used += 1
        return self.memory[start : start + like.nbytes].view(like.dtype).view(like.shape)

    @property
    def full(self) -> bool:
        return (self.used + 1) * self.step > self.memory.nbytes


def _open_slab(nbytes: int, step: int, pinning: Pinning) -> Slab:
    try:
        memory = torch.empty(nbytes, dtype=torch.uint8)
    except RuntimeError as error:
        raise FluxGuardError(
            f"There is no memory for the next {nbytes / 2**20:.0f} MiB of the inversion's record.",
            "Keep fewer value intervals or fewer blocks, or keep them as fp8.",
        ) from error
    slab = Slab(memory, step, pinning.pin(memory))
    if slab.locked:
        weakref.finalize(slab, _let_go, memory, pinning).atexit = False
    return slab


def _let_go(memory: Tensor, pinning: Pinning) -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # a copy may still be under way
    pinning.unpin(memory)


@dataclass(eq=False)
class BlockPool:
    """Hands out blocks of page-locked memory; never more than ``expected`` blocks' worth ahead.

    Args:
        expected: how many blocks will be asked for in all.
    """

    pinning: Pinning
    expected: int
    _slab: Slab | None = None
    _refused: bool = field(default=False)

    def take(self, like: Tensor) -> tuple[Tensor, Slab]:
        """Room for a tensor, and the slab that must live as long as it is used."""
        step = -(-like.nbytes // _ALIGNMENT) * _ALIGNMENT
        if self._slab is None or self._slab.full or self._slab.step != step:
            blocks = max(1, min(self.expected, _SLAB // max(step, 1)))
            self._slab = _open_slab(blocks * step, step, self.pinning)
            if not self._slab.locked and not self._refused:
                self._refused = True
                self.pinning.tell(
                    "Part of the inversion's record lies in ordinary memory, since no more could be pinned: all the "
                    "same, but its copies take longer."
                )
        self.expected = max(0, self.expected - 1)
        return self._slab.block(like), self._slab
