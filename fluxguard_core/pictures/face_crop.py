"""Large photos: work on a square around the face, then put the change back into the photo."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..faces.face import Face

_SIDE = 2.2  # side of the crop in heights of the face box, so that hair and hats fit in
_ROOM = 1.4  # and, for several faces side by side, in widths of the box around them
_SMALLEST = 16  # a photo of fewer pixels across is used whole
_SEAM = 0.06  # width of the feathered seam as a share of the side


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """A square of a photo, brought to working size.

    Attributes:
        working: the crop at working size [B, 3, s, s].
        box: left, top, right, bottom in the photo's pixels.
    """

    photo: Tensor
    working: Tensor
    box: tuple[int, int, int, int]

    def to_working(self, picture: Tensor) -> Tensor:
        """Cut the same square out of a mask or picture of the photo's size."""
        left, top, right, bottom = self.box
        return resized(picture[..., top:bottom, left:right], self.working.shape[-1])

    def face(self, face: Face) -> Face:
        """A face of the photo in the crop's pixels."""
        left, top, right, _ = self.box
        scale = self.working.shape[-1] / (right - left)
        x0, y0, x1, y1 = face.box
        box = ((x0 - left) * scale, (y0 - top) * scale, (x1 - left) * scale, (y1 - top) * scale)
        points = face.landmarks
        if points is not None:
            origin = points.new_tensor([left, top])
            points = (points - origin + 0.5) * scale - 0.5
        return Face(box, points, face.score)

    def paste(self, result: Tensor) -> Tensor:
        """The photo with the change from ``working`` to ``result`` [B, 3, s, s] put back into the square.

        What is added is the difference, enlarged: fine grain of the photo survives a smaller working size,
        and where nothing changed the photo is untouched. The change fades out across the seam.
        """
        left, top, right, bottom = self.box
        side = right - left
        change = resized(result - self.working.to(result), side) * _seam(side, self.box, self.photo)
        out = self.photo.clone().to(result)
        out[..., top:bottom, left:right] += change[..., : bottom - top, : right - left]
        return out.clamp(0, 1)


def crop_face(photo: Tensor, face: Face, size: int) -> FaceCrop | None:
    """The square to work on, or None where the photo is no larger than ``size`` and is used whole.

    Args:
        photo: [B, 3, H, W] in [0, 1].
        face: or the box around several faces.
        size: working side in pixels, whole tokens of the model.
    """
    height, width = photo.shape[-2:]
    if max(height, width) <= size or min(height, width) < _SMALLEST:
        return None
    x0, y0, x1, y1 = face.box
    wanted = max(_SIDE * (y1 - y0), _ROOM * (x1 - x0))
    side = min(max(round(wanted), size), height, width)
    left = min(max(round((x0 + x1 - side) / 2), 0), width - side)
    # A face sits low in its box's surroundings: more room above, for the hair.
    top = min(max(round((y0 + y1 - side) / 2 - 0.05 * side), 0), height - side)
    box = (left, top, left + side, top + side)
    return FaceCrop(photo, resized(photo[..., top : top + side, left : left + side], size), box)


def resized(picture: Tensor, side: int) -> Tensor:
    """A square picture at another side, antialiased; unchanged where it has it already."""
    if picture.shape[-1] == side and picture.shape[-2] == side:
        return picture
    return F.interpolate(picture, (side, side), mode="bicubic", antialias=True)


def _seam(side: int, box: tuple[int, int, int, int], photo: Tensor) -> Tensor:
    """[side, side] in [0, 1]: fades to 0 at the square's edges, except where the photo itself ends."""
    left, top, right, bottom = box
    height, width = photo.shape[-2:]
    ramp = (torch.arange(side, device=photo.device) + 0.5) / max(1.0, _SEAM * side)
    rise = ramp.clamp(max=1)
    fall = rise.flip(0)
    whole = torch.ones_like(rise)
    across = (whole if left == 0 else rise) * (whole if right == width else fall)
    down = (whole if top == 0 else rise) * (whole if bottom == height else fall)
    return down[:, None] * across[None]
