"""Bilinear reading and antialiased resizing with gradients on every device.

Where a device has PyTorch's own backward kernel it is used; elsewhere the same sums are written with operations
that every device can differentiate.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .devices import abilities


def bilinear(image: Tensor, grid: Tensor) -> Tensor:
    """Samples [B,C,h,w] of [B,C,H,W] at a grid [B,h,w,2] as ``grid_sample`` has it: -1 to 1, zero outside."""
    if abilities(image.device).grid_sample_gradient:
        return F.grid_sample(
            image, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
    height, width = image.shape[-2:]
    x, y = ((grid + 1) * grid.new_tensor([width / 2, height / 2]) - 0.5).unbind(-1)
    left, top = x.detach().floor(), y.detach().floor()
    flat, total = image.flatten(2), image.new_zeros(())
    for column, across in ((left, left + 1 - x), (left + 1, x - left)):
        for row, down in ((top, top + 1 - y), (top + 1, y - top)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            index = place.long().flatten(1)[:, None].expand(-1, image.shape[1], -1)
            seen = flat.gather(2, index).unflatten(2, place.shape[1:])
            total = total + seen * (across * down * inside)[:, None]
    return total


def shrink(image: Tensor, size: tuple[int, int]) -> Tensor:
    """[B,C,H,W] -> [B,C,*size], bilinear and antialiased as ``interpolate`` has it."""
    if abilities(image.device).antialias_gradient:
        return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
    rows, columns = (
        _triangles(whole, part).to(image)
        for whole, part in zip(image.shape[-2:], size, strict=True)
    )
    return rows @ image @ columns.T


def _triangles(whole: int, part: int) -> Tensor:
    """Weights [part, whole] of an antialiased resize: a triangle around each target, wider where it shrinks."""
    # Whole numbers, for single precision would place the triangles badly in a large picture.
    centres = (2 * torch.arange(part) + 1)[:, None] * whole
    distance = ((2 * torch.arange(whole) + 1) * part - centres).abs()
    weights = (1 - distance / (2.0 * max(whole, part))).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)
