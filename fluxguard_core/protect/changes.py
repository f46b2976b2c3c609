"""Ways to change a photo a little: its pixels, shaped so that the eye minds them least, and a latent's residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..evaluate.likeness import FaceView
from ..regions.morphology import gaussian_blur
from .spaces import Decode

# Y, Cb, Cr (ITU-R BT.601, full range) -> R, G, B.
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
_BANDS = (1.0, 2.0, 4.0, 8.0)  # blurs between which a step is shared out, in the figures' pixels


class Change(Protocol):
    """What a variable [1, N] adds to a photo."""

    @property
    def length(self) -> int:
        """N."""

    def __call__(self, variable: Tensor) -> Tensor:
        """The change [1, 3, h, w]; differentiable, and 0 where the variable is 0."""

    def shaped(self, slope: Tensor) -> Tensor:
        """The way a step goes [1, N], for the gradient's [1, N]."""

    def holding(self, variable: Tensor, change: Tensor) -> Tensor:
        """The variable whose change is ``change`` instead of its own, as near as it can come."""


@dataclass(frozen=True, eq=False)
class PixelChange:
    """The change of each pixel itself, less its coarse part; its steps have little colour, and as much of each band.

    Args:
        view: the face.
        mask: where it may act, [1, 1, h, w] in [0, 1].
        coarsest: parts of the change that outlast a blur of so many pixels are taken out, in the figures' pixels.
        chroma: size of a step in the two chroma planes against luma.
    """

    view: FaceView
    mask: Tensor
    coarsest: float = 8.0
    chroma: float = 1 / 3

    @property
    def length(self) -> int:
        """Three values a pixel."""
        return self.view.photo.numel()

    def __call__(self, variable: Tensor) -> Tensor:
        """The variable as a picture inside the mask, the coarse part taken out."""
        change = variable.reshape(self.view.photo.shape)
        return without_coarse(change, self.coarsest * self.view.pixel) * (self.mask > 0)

    def shaped(self, slope: Tensor) -> Tensor:
        """Steepest where luma costs less than colour, with all bands of one length."""
        matrix = slope.new_tensor(_TO_RGB)
        planes = torch.einsum("ij,bihw->bjhw", matrix, slope.reshape(self.view.photo.shape))
        share = planes.new_tensor([1.0, self.chroma**2, self.chroma**2]).reshape(1, 3, 1, 1)
        way = torch.einsum("ij,bjhw->bihw", matrix, share * planes) * self.mask
        return _evened(way, self.view.pixel)

    def holding(self, variable: Tensor, change: Tensor) -> Tensor:
        """The change is the variable."""
        return change.reshape(1, -1)


@dataclass(frozen=True, eq=False)
class LatentChange:
    """What a changed latent decodes to, less what the unchanged one does: the round trip's own loss stays out.

    Args:
        latent: of the square [1, C, h, w], as ``decode`` takes it.
        decode: differentiable decoder; its picture is cut to the mask's size.
        step: size of a variable of 1, in latent units.
    """

    latent: Tensor
    decode: Decode
    mask: Tensor
    step: float = 1.0
    coarsest: float = 8.0
    _plain: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        with torch.no_grad():
            object.__setattr__(self, "_plain", self._picture(self.latent))

    @property
    def length(self) -> int:
        """The latent's values."""
        return self.latent.numel()

    def _picture(self, latent: Tensor) -> Tensor:
        height, width = self.mask.shape[-2:]
        return self.decode(latent)[..., :height, :width]

    def __call__(self, variable: Tensor) -> Tensor:
        """The decoded difference, the coarse part taken out."""
        moved = self.latent + self.step * variable.reshape(self.latent.shape)
        return without_coarse(self._picture(moved) - self._plain, self.coarsest) * self.mask

    def shaped(self, slope: Tensor) -> Tensor:
        """The gradient itself."""
        return slope

    def holding(self, variable: Tensor, change: Tensor) -> Tensor:
        """No latent decodes to just any change; the variable stays."""
        return variable


@dataclass(frozen=True, eq=False)
class Together:
    """Several changes added up; the variable holds one after the other. The first one makes up for the rest."""

    parts: Sequence[Change]

    @property
    def length(self) -> int:
        """All variables'."""
        return sum(part.length for part in self.parts)

    def __call__(self, variable: Tensor) -> Tensor:
        """The sum of all parts."""
        first, *rest = [part(piece) for part, piece in self._each(variable)]
        for change in rest:
            first = first + change
        return first

    def shaped(self, slope: Tensor) -> Tensor:
        """Each part in its own way, at the length that its gradient had."""
        ways = [(part.shaped(piece), piece.norm()) for part, piece in self._each(slope)]
        return torch.cat([way * (size / way.norm().clamp(min=1e-12)) for way, size in ways], 1)

    def holding(self, variable: Tensor, change: Tensor) -> Tensor:
        """The first part takes what the others leave."""
        (first, piece), *rest = self._each(variable)
        for part, other in rest:
            change = change - part(other)
        return torch.cat([first.holding(piece, change), *(other for _, other in rest)], 1)

    def _each(self, variable: Tensor) -> list[tuple[Change, Tensor]]:
        pieces = variable.split([part.length for part in self.parts], dim=1)
        return list(zip(self.parts, pieces, strict=True))


def without_coarse(change: Tensor, sigma: float) -> Tensor:
    """A change less its blur: no feature moves, no shade shifts."""
    return change - gaussian_blur(change, sigma)


def _evened(way: Tensor, pixel: float) -> Tensor:
    """Every band [1, N] of a way [1, 3, h, w] at one length: a gradient's own are fine above all.

    A budget is met band by band, so that the steepest way inside it has all of each.
    """
    evened = torch.zeros_like(way)
    for sigma in _BANDS:
        coarser = gaussian_blur(way, sigma * pixel)
        band = way - coarser
        evened, way = evened + band / band.norm().clamp(min=1e-12), coarser
    return evened.reshape(1, -1)
