"""How much of the budget each place of a picture gets, and the tiles that a large picture is worked on in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..regions.morphology import gaussian_blur

_LUMA = (0.299, 0.587, 0.114)
_TEXTURED = 6 / 255  # local deviation of the fine luma from which on a place hides the whole budget
_FINE, _SPREAD = 2.5, 4.0  # blurs, in pixels of a picture of about a thousand


def texture_share(picture: Tensor, smooth: float) -> Tensor:
    """Share of the budget [B, 1, H, W]: 1 where texture hides a change, ``smooth`` on smooth skin and sky.

    A just noticeable difference by texture masking alone: the local deviation of the fine luma, softly spread.
    """
    if not 0 < smooth <= 1:
        raise FluxGuardError(f"Expected a smooth share above 0 and at most 1, got {smooth:g}.")
    if smooth == 1:
        return torch.ones_like(picture[:, :1])
    scale = max(1.0, max(picture.shape[-2:]) / 1024)
    luma = torch.einsum("c,bchw->bhw", picture.new_tensor(_LUMA), picture)[:, None]
    fine = luma - gaussian_blur(luma, _FINE * scale)
    texture = gaussian_blur(fine.square(), _SPREAD * scale).clamp(min=0).sqrt()
    return smooth + (1 - smooth) * (texture / _TEXTURED).clamp(max=1)


@dataclass(frozen=True)
class Tile:
    """A part of a picture: its rows and columns, and how much of its result counts where."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, picture: Tensor) -> Tensor:
        """The part of [..., H, W]."""
        rows, columns = (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )
        return picture[..., rows, columns]

    def weight(self, overlap: int) -> Tensor:
        """[1, 1, height, width] above 0, falling towards the tile's edges over the overlap."""
        sides = [
            torch.minimum(torch.arange(n) + 1, n - torch.arange(n)).clamp(max=overlap + 1).float()
            for n in (self.height, self.width)
        ]
        return (sides[0][:, None] * sides[1][None])[None, None] / (overlap + 1) ** 2


def tiles_of(size: tuple[int, int], side: int = 1024, overlap: int = 128) -> list[Tile]:
    """Tiles of at most ``side`` pixels that cover a picture of ``size`` = (height, width), overlapping."""
    if side <= overlap:
        raise FluxGuardError(f"Expected tiles larger than their overlap {overlap}, got {side}.")
    rows, columns = (list(_starts(length, side, overlap)) for length in size)
    return [Tile(t, left, h, w) for t, h in rows for left, w in columns]


def _starts(length: int, side: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Starts and lengths of tiles along one direction, evenly placed."""
    if length <= side:
        yield 0, length
        return
    count = -(-(length - overlap) // (side - overlap))
    for i in range(count):
        yield round(i * (length - side) / (count - 1)), side
