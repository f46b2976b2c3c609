"""Large photos: work on a square around the face, then put the change back into the photo.

Everything here grows with the square, not with the photo: a result is kept as the pixels that changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..faces.face import Face
from ..resampling import bicubic

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""

_SIDE = 2.2  # side of the crop in heights of the face box, so that hair and hats fit in
_ROOM = 1.4  # and, for several faces side by side, in widths of the box around them
_SMALLEST = 16  # a photo of fewer pixels across is used whole
_SEAM = 0.06  # width of the feathered seam as a share of the side


@dataclass(frozen=True, eq=False)
class Patch:
    """A rectangle of a photo with other pixels [B, C, h, w] in it."""

    box: Box
    pixels: Tensor

    def within(self, photo: Tensor, box: Box) -> Tensor:
        """A rectangle of the changed photo; the photo [B, C, H, W] itself stays as it is."""
        left, top, right, bottom = box
        out = photo[..., top:bottom, left:right].clone()
        x0, y0, x1, y1 = overlap(self.box, box)
        if x0 < x1 and y0 < y1:
            own = self.pixels[
                ..., y0 - self.box[1] : y1 - self.box[1], x0 - self.box[0] : x1 - self.box[0]
            ]
            out[..., y0 - top : y1 - top, x0 - left : x1 - left] = own.to(out)
        return out

    def on(self, photo: Tensor) -> Tensor:
        """The whole changed photo."""
        return self.within(photo, (0, 0, photo.shape[-1], photo.shape[-2]))


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """A part of a photo, brought to working size.

    Args:
        photo: [B, 3, H, W] in [0, 1].
        working: the part at working size [B, 3, h, w].
        box: where it lies in the photo.
    """

    photo: Tensor
    working: Tensor
    box: Box

    def to_working(self, picture: Tensor) -> Tensor:
        """Cut the same part out of a mask or picture of the photo's size."""
        left, top, right, bottom = self.box
        return resized(picture[..., top:bottom, left:right], _size(self.working))

    def face(self, face: Face) -> Face:
        """A face of the photo in the crop's pixels."""
        return face.moved(self.box[0], self.box[1], self.working.shape[-1] / self.size[1])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the part in the photo."""
        left, top, right, bottom = self.box
        return bottom - top, right - left

    def paste(self, result: Tensor) -> Patch:
        """The photo's pixels with the change from ``working`` to ``result`` [B, 3, h, w].

        What is added is the difference, enlarged: fine grain of the photo survives a smaller working size,
        and where nothing changed the photo is untouched. The change fades out across the seam.
        """
        left, top, right, bottom = self.box
        own = self.photo[..., top:bottom, left:right].to(result)
        change = resized(result - self.working.to(result), self.size)
        return Patch(self.box, (own + change * self._seam().to(result)).clamp(0, 1))

    def spread(self, region: Tensor) -> Patch:
        """A region [B, 1, h, w] of 0 and 1 at the photo's scale."""
        return Patch(self.box, F.interpolate(region.float(), self.size, mode="nearest-exact"))

    def _seam(self) -> Tensor:
        """[h, w] in [0, 1]: fades to 0 at the part's edges, except where the photo itself ends."""
        left, top, right, bottom = self.box
        height, width = self.photo.shape[-2:]
        across = _fade(right - left, left > 0, right < width)
        return _fade(bottom - top, top > 0, bottom < height)[:, None] * across[None]


def crop_face(photo: Tensor, face: Face, size: int) -> FaceCrop:
    """The square to work on; all of a photo that is no larger than ``size``, or very narrow.

    Args:
        photo: [B, 3, H, W] in [0, 1].
        face: or the box around several faces.
        size: working side in pixels, whole tokens of the model.
    """
    height, width = photo.shape[-2:]
    if max(height, width) <= size or min(height, width) < _SMALLEST:
        return FaceCrop(photo, photo, (0, 0, width, height))
    x0, y0, x1, y1 = face.box
    wanted = max(_SIDE * (y1 - y0), _ROOM * (x1 - x0))
    side = min(max(round(wanted), size), height, width)
    left = min(max(round((x0 + x1 - side) / 2), 0), width - side)
    # A face sits low in its box's surroundings: more room above, for the hair.
    top = min(max(round((y0 + y1 - side) / 2 - 0.05 * side), 0), height - side)
    part = photo[..., top : top + side, left : left + side]
    return FaceCrop(photo, resized(part, (size, size)), (left, top, left + side, top + side))


def overlap(one: Box, other: Box) -> Box:
    """What two boxes share; empty where right <= left or bottom <= top."""
    return (
        max(one[0], other[0]),
        max(one[1], other[1]),
        min(one[2], other[2]),
        min(one[3], other[3]),
    )


def union(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all of them."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture at another height and width, antialiased; unchanged where it has them already."""
    if _size(picture) == size:
        return picture
    return bicubic(picture, size)


def _size(picture: Tensor) -> tuple[int, int]:
    return picture.shape[-2], picture.shape[-1]


def _fade(side: int, first: bool, last: bool) -> Tensor:
    ramp = ((torch.arange(side) + 0.5) / max(1.0, _SEAM * side)).clamp(max=1)
    whole = torch.ones_like(ramp)
    return (ramp if first else whole) * (ramp.flip(0) if last else whole)
