"""Random views of one photo's face, cheap enough for many: drawn on the recogniser's crop, not on the photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..faces.alignment import align
from ..faces.crops import Crop
from ..regions.morphology import gaussian_blur
from ..resampling import shrink
from .views import View, jittered

Disturb = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class PhotoViews:
    """Views under another detector, mirrored half of the time, and blurred, noisy, smaller or of another tone.

    Args:
        landmarks: five points [1, 5, 2] of the clean picture.
        count: views a step.
        jitter: standard deviation of the alignment's shift, as a share of the eye distance.
    """

    landmarks: Tensor
    count: int = 2
    jitter: float = 0.03

    def __call__(self, generator: torch.Generator) -> Sequence[View]:
        return [self._draw(generator) for _ in range(self.count)]

    def plain(self, picture: Tensor, crop: int | Crop) -> Tensor:
        """The aligned face as it is."""
        return align(picture, self.landmarks.clone().to(picture.device), crop)

    def _draw(self, generator: torch.Generator) -> View:
        points = jittered(self.landmarks.clone(), self.jitter, generator)
        mirrored = float(torch.rand(1, generator=generator)) < 0.5
        disturb = disturbance(generator)

        def view(picture: Tensor, crop: int | Crop) -> Tensor:
            face = align(picture, points.to(picture.device), crop)
            return disturb(face.flip(3) if mirrored else face)

        return view


def disturbance(generator: torch.Generator) -> Disturb:
    """One of five things that happen to a face [B, 3, S, S] on its way to a recogniser."""
    kind = int(torch.randint(5, (1,), generator=generator))
    much, more = torch.rand(2, generator=generator).tolist()
    if kind == 0:
        return lambda face: gaussian_blur(face, 0.4 + 0.9 * much)
    if kind == 1:
        seed = int(torch.randint(2**31, (1,), generator=generator))
        return lambda face: face + (0.01 + 0.02 * much) * _grain(face, seed)
    if kind == 2:
        return lambda face: _smaller(face, 0.45 + 0.5 * much)
    if kind == 3:
        return lambda face: 0.5 + (face - 0.5) * (0.8 + 0.4 * much) + 0.1 * (more - 0.5)
    return lambda face: face.clamp(1 / 255, 1) ** (0.8 + 0.45 * much)


def _grain(face: Tensor, seed: int) -> Tensor:
    return torch.randn(face.shape, generator=torch.Generator().manual_seed(seed)).to(face)


def _smaller(face: Tensor, share: float) -> Tensor:
    side = face.shape[-1]
    small = shrink(face, (max(8, round(share * side)),) * 2)
    return F.interpolate(small, (side, side), mode="bilinear")
