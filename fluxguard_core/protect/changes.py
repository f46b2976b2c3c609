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
_FLAT = 0.04  # local standard deviation from which on texture hides a change in full


class Change(Protocol):
    """What a variable [1, N] adds to a photo."""

    @property
    def length(self) -> int:
        """N."""

    def __call__(self, variable: Tensor) -> Tensor:
        """The change [1, 3, h, w]; differentiable, and 0 where the variable is 0."""


@dataclass(frozen=True, eq=False)
class PixelChange:
    """Luma and chroma of each pixel, more where texture hides it, without what is coarse.

    Args:
        view: the face.
        mask: where it may act, [1, 1, h, w] in [0, 1].
        coarsest: parts of the change that outlast a blur of so many pixels are taken out, in the figures' pixels.
        chroma: weight of the two chroma planes.
        least: what smooth skin has of the weight of textured places.
    """

    view: FaceView
    mask: Tensor
    coarsest: float = 8.0
    chroma: float = 1 / 3
    least: float = 0.08
    _weight: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        planes = self.mask.new_tensor([1.0, self.chroma, self.chroma]).reshape(1, 3, 1, 1)
        texture = (self.view.texture / _FLAT).clamp(self.least, 1)
        object.__setattr__(self, "_weight", planes * texture * self.mask)

    @property
    def length(self) -> int:
        """Three values a pixel."""
        return self._weight.numel()

    def __call__(self, variable: Tensor) -> Tensor:
        """Luma and chroma as RGB, the coarse part taken out."""
        planes = variable.reshape(self._weight.shape) * self._weight
        change = torch.einsum("ij,bjhw->bihw", planes.new_tensor(_TO_RGB), planes)
        return without_coarse(change, self.coarsest * self.view.pixel) * self.mask


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


@dataclass(frozen=True, eq=False)
class Together:
    """Several changes added up; the variable holds one after the other."""

    parts: Sequence[Change]

    @property
    def length(self) -> int:
        """All variables'."""
        return sum(part.length for part in self.parts)

    def __call__(self, variable: Tensor) -> Tensor:
        """The sum of all parts."""
        pieces = variable.split([part.length for part in self.parts], dim=1)
        first, *rest = [part(piece) for part, piece in zip(self.parts, pieces, strict=True)]
        for change in rest:
            first = first + change
        return first


def without_coarse(change: Tensor, sigma: float) -> Tensor:
    """A change less its blur: no feature moves, no shade shifts."""
    return change - gaussian_blur(change, sigma)
