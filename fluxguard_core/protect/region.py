"""Where the protection may act: a feathered face region, and the part of the picture to decode for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Half axes of the ellipse around the face in eye distances, and its centre below the eyes' middle.
_HALF_WIDTH, _HALF_HEIGHT, _DROP = 1.35, 1.75, 0.55


def face_region(
    landmarks: Tensor, height: int, width: int, pixels: int, *, feather: float = 0.35
) -> Tensor:
    """A soft ellipse over the face, at latent resolution.

    Args:
        landmarks: five points [B, 5, 2] in pixels.
        height, width: of the latent.
        pixels: side of a latent cell in pixels.
        feather: width of the soft rim as a share of the radius.

    Returns:
        [B, 1, height, width] in [0, 1]: 1 over the face, 0 outside, smooth between.
    """
    points = landmarks.double() / pixels - 0.5 + 0.5 / pixels
    eyes = points[:, :2].mean(1)
    across = points[:, 1] - points[:, 0]
    unit = across.norm(dim=-1)[:, None, None]
    along = across / across.norm(dim=-1, keepdim=True)
    down = torch.stack([-along[:, 1], along[:, 0]], -1)
    centre = eyes + _DROP * unit[:, :, 0] * down
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    offset = torch.stack([x, y], -1).to(points)[None] - centre[:, None, None]
    u = (offset * along[:, None, None]).sum(-1) / (_HALF_WIDTH * unit)
    v = (offset * down[:, None, None]).sum(-1) / (_HALF_HEIGHT * unit)
    inside = ((1 - (u.square() + v.square()).sqrt()) / feather).clamp(0, 1)
    return (inside * inside * (3 - 2 * inside))[:, None].float()


@dataclass(frozen=True)
class Window:
    """A rectangle of the latent grid, [top, bottom) x [left, right), in some or all pictures of a batch.

    Args:
        pictures: numbers of the pictures meant; None means all of the batch.
    """

    top: int
    bottom: int
    left: int
    right: int
    pictures: tuple[int, ...] | None = None

    def crop(self, latent: Tensor) -> Tensor:
        """Cut the rectangle out of [B, C, H, W]."""
        chosen = latent if self.pictures is None else latent[list(self.pictures)]
        return chosen[..., self.top : self.bottom, self.left : self.right]

    def paste(self, latent: Tensor, patch: Tensor) -> Tensor:
        """A copy of ``latent`` with ``patch`` in the rectangle; other pictures stay as they are."""
        whole = latent.clone()
        chosen = slice(None) if self.pictures is None else list(self.pictures)
        whole[chosen, :, self.top : self.bottom, self.left : self.right] = patch
        return whole

    def scaled(self, pixels: int) -> Window:
        """The same rectangle in pixels, with cells of ``pixels``."""
        top, bottom, left, right = (
            pixels * edge for edge in (self.top, self.bottom, self.left, self.right)
        )
        return Window(top, bottom, left, right, self.pictures)

    def shift(self, landmarks: Tensor, pixels: int) -> Tensor:
        """Landmarks in pixels of the whole picture -> of the cut-out one, with cells of ``pixels``."""
        return landmarks - pixels * landmarks.new_tensor([self.left, self.top])


def window_around(region: Tensor, margin: float = 0.25, multiple: int = 2) -> Window:
    """The smallest rectangle that holds a region [B, 1, H, W], grown by ``margin`` of its size a side.

    The decoder sees the surroundings through its receptive field, hence the margin.
    """
    height, width = region.shape[-2:]
    covered = (region > 0).any(0)[0]
    rows, columns = covered.any(1).nonzero().flatten(), covered.any(0).nonzero().flatten()

    def grow(first: int, last: int, limit: int) -> tuple[int, int]:
        extra = math.ceil((last + 1 - first) * margin)
        low = max(0, first - extra) // multiple * multiple
        return low, min(limit, -(-(last + 1 + extra) // multiple) * multiple)

    top, bottom = grow(int(rows[0]), int(rows[-1]), height)
    left, right = grow(int(columns[0]), int(columns[-1]), width)
    return Window(top, bottom, left, right)
