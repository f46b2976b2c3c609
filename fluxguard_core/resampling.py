"""Bilinear reading and antialiased resizing with gradients on every device.

Where a device has PyTorch's own backward kernel it is used; elsewhere the same sums are written with operations
that every device can differentiate.
"""

from __future__ import annotations

from collections.abc import Callable

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
    return _weighted(image, size, _triangles)


def bicubic(image: Tensor, size: tuple[int, int], *, antialias: bool = True) -> Tensor:
    """[B,C,H,W] -> [B,C,*size], bicubic as ``interpolate`` has it, antialiased or not."""
    if abilities(image.device).antialias_gradient:
        return F.interpolate(image, size, mode="bicubic", align_corners=False, antialias=antialias)
    return _weighted(image, size, _smooth_cubics if antialias else _cubics)


def means(image: Tensor, size: tuple[int, int]) -> Tensor:
    """[B,C,H,W] -> [B,C,*size], means over windows as ``adaptive_avg_pool2d`` has them.

    As products everywhere: on Macs PyTorch's own wants sides that are whole multiples.
    """
    return _weighted(image, size, _windows)


def _weighted(
    image: Tensor, size: tuple[int, int], weights: Callable[[int, int], Tensor]
) -> Tensor:
    rows, columns = (
        weights(whole, part).to(image) for whole, part in zip(image.shape[-2:], size, strict=True)
    )
    return rows @ image @ columns.T


def _triangles(whole: int, part: int) -> Tensor:
    """Weights [part, whole] of an antialiased resize: a triangle around each target, wider where it shrinks."""
    weights = (1 - _distance(whole, part) / (2.0 * max(whole, part))).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def _smooth_cubics(whole: int, part: int) -> Tensor:
    """As ``_triangles`` with Keys' cubic of -0.5, which PyTorch takes for an antialiased resize."""
    weights = _keys(_distance(whole, part) / (2.0 * max(whole, part)), -0.5)
    return weights / weights.sum(1, keepdim=True)


def _cubics(whole: int, part: int) -> Tensor:
    """Weights [part, whole] of a plain bicubic resize: Keys' cubic of -0.75 over four pixels, the edge repeated."""
    centres = (torch.arange(part, dtype=torch.float64) + 0.5) * whole / part - 0.5
    near = centres.floor()[:, None] + torch.arange(-1, 3)
    share = _keys((near - centres[:, None]).abs(), -0.75)
    weights = torch.zeros(part, whole, dtype=torch.float64)
    return weights.scatter_add_(1, near.clamp(0, whole - 1).long(), share)


def _windows(whole: int, part: int) -> Tensor:
    """Weights [part, whole] of means over windows that overlap where the one is no multiple of the other."""
    places, number = torch.arange(whole), torch.arange(part)[:, None]
    first, end = number * whole // part, -((number + 1) * -whole // part)
    inside = ((places >= first) & (places < end)).float()
    return inside / inside.sum(1, keepdim=True)


def _distance(whole: int, part: int) -> Tensor:
    """Distances [part, whole] of source pixels from targets, in units of 1 / (2 part) source pixels."""
    # Whole numbers, for single precision would place the targets badly in a large picture.
    centres = (2 * torch.arange(part) + 1)[:, None] * whole
    return ((2 * torch.arange(whole) + 1) * part - centres).abs()


def _keys(x: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel at distances x >= 0."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
