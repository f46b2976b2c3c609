"""Binary and soft morphology by pooling, on tensors whose last two axes are a picture's."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def _pooled(mask: Tensor, radius: int) -> Tensor:
    # A square maximum is a row maximum after a column maximum: 2k reads a pixel, not k*k.
    flat = mask.reshape(-1, 1, *mask.shape[-2:])
    size = 2 * radius + 1
    flat = F.max_pool2d(flat, (size, 1), stride=1, padding=(radius, 0))
    return F.max_pool2d(flat, (1, size), stride=1, padding=(0, radius)).reshape(mask.shape)


def dilate(mask: Tensor, size: float) -> Tensor:
    """Grow a mask by a square of `size` pixels (a kernel width, so each side grows by half of it).

    Bool stays bool, float stays float. A positive size grows by one pixel at least, so that a rule
    written for a large face does not vanish on a small one; size 0 changes nothing.
    """
    if size <= 0:
        return mask
    radius = max(1, round(size / 2))
    if mask.dtype == torch.bool:
        return _pooled(mask.to(torch.float32), radius) > 0.5
    return _pooled(mask, radius)


def erode(mask: Tensor, size: float) -> Tensor:
    """Shrink a mask by a square of `size` pixels; the picture's border does not count as outside."""
    if mask.dtype == torch.bool:
        return ~dilate(~mask, size)
    return 1 - dilate(1 - mask, size)


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian of standard deviation `sigma` pixels over [B,C,H,W], edges replicated."""
    if sigma <= 0:
        return image
    radius = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    flat = image.reshape(-1, 1, *image.shape[-2:])
    flat = F.pad(flat, (radius, radius, radius, radius), mode="replicate")
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return flat.reshape(image.shape)
