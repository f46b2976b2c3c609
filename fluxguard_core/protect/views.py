"""What a recogniser may see of a picture: the published whole frame, or aligned, shared, jittered faces."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..faces.alignment import align, whole_frame
from ..faces.crops import Crop
from ..resampling import shrink

# Picture [B, 3, H, W] in [0, 1] and a recogniser's crop, or a side S for ArcFace's -> faces [B, 3, S, S];
# differentiable.
View = Callable[[Tensor, int | Crop], Tensor]
# Draws the views of one optimisation step.
Views = Callable[[torch.Generator], Sequence[View]]


def whole_frame_views(generator: torch.Generator) -> Sequence[View]:
    """The published code's only view: the frame squashed to the input, no detection, no antialiasing."""
    del generator
    return (whole_frame,)


@dataclass(frozen=True, eq=False)
class AlignedViews:
    """The aligned face, and ``random`` further views of it as it may look after sharing.

    Expectation over transformations: each random view jitters the alignment as another detector would, and
    passes the picture through a differentiable resize, blur or JPEG.

    Args:
        landmarks: five points [1, B or faces · B, 5, 2] of the clean picture, found once and kept; of
            several faces in each picture, one face after the other.
        random: number of random views a step.
        jitter: standard deviation of the alignment's shift, as a share of the eye distance; rotation and
            scale follow from it.
    """

    landmarks: Tensor
    random: int = 2
    jitter: float = 0.03

    def __call__(self, generator: torch.Generator) -> Sequence[View]:
        return (self.plain, *(self._draw(generator) for _ in range(self.random)))

    def plain(self, picture: Tensor, size: int | Crop) -> Tensor:
        """The antialiased aligned face."""
        # cloned: landmarks found in inference mode cannot be saved for a backward pass
        points = self.landmarks.clone().to(picture.device)
        return align(_for_each_face(picture, points), points, size)

    def _draw(self, generator: torch.Generator) -> View:
        points = jittered(self.landmarks.clone(), self.jitter, generator)
        share = random_sharing(generator)

        def view(picture: Tensor, size: int | Crop) -> Tensor:
            return align(_for_each_face(share(picture), points), points.to(picture.device), size)

        return view


def _for_each_face(picture: Tensor, landmarks: Tensor) -> Tensor:
    """The pictures [B, 3, H, W] as often as each of them has faces."""
    faces = len(landmarks) // len(picture)
    return picture.repeat(faces, 1, 1, 1) if faces > 1 else picture


def jittered(landmarks: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Landmarks [B, 5, 2] under a small random similarity, as another detector might find them."""
    dx, dy, turn, grow = torch.randn(4, generator=generator).tolist()
    centre = landmarks.mean(1, keepdim=True)
    eyes = (landmarks[:, 1] - landmarks[:, 0]).norm(dim=-1)[:, None, None]
    angle, scale = amount * turn, 1 + amount * grow
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    rotation = landmarks.new_tensor([[cos, sin], [-sin, cos]])
    shift = amount * eyes * landmarks.new_tensor([dx, dy])
    return (landmarks - centre) @ rotation + centre + shift


def random_sharing(generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """One of four things that happen to shared pictures: resize, blur, JPEG, or nothing but noise."""
    kind = int(torch.randint(4, (1,), generator=generator))
    amount = float(torch.rand(1, generator=generator))
    if kind == 0:
        return lambda picture: shrunk(picture, 0.4 + 0.5 * amount)
    if kind == 1:
        return lambda picture: blurred(picture, 0.4 + 1.1 * amount)
    if kind == 2:
        return lambda picture: jpeg(picture, 45 + 45 * amount)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    return lambda picture: noisy(picture, 0.01 + 0.02 * amount, seed)


def shrunk(picture: Tensor, factor: float) -> Tensor:
    """Resize to ``factor`` of the size and back, antialiased."""
    height, width = picture.shape[-2:]
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    small = shrink(picture, size)
    return F.interpolate(small, (height, width), mode="bilinear")


def blurred(picture: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, ``sigma`` in pixels."""
    from kornia.filters import gaussian_blur2d

    side = 2 * math.ceil(3 * sigma) + 1
    return gaussian_blur2d(picture, (side, side), (sigma, sigma))


def jpeg(picture: Tensor, quality: float) -> Tensor:
    """Differentiable JPEG at ``quality`` in 1..100."""
    from kornia.enhance import jpeg_codec_differentiable

    return jpeg_codec_differentiable(picture, torch.tensor([quality], device=picture.device))


def noisy(picture: Tensor, sigma: float, seed: int) -> Tensor:
    """Gaussian noise of standard deviation ``sigma``, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(picture.shape, generator=generator).to(picture)
    return (picture + sigma * noise).clamp(0, 1)
