"""Binary and soft morphology by pooling, on tensors whose last two axes are a picture's."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to this side a blur is two matrix products: on a processor its gradient takes a tenth of a convolution's.
_AS_PRODUCTS = 512


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
    height, width = image.shape[-2:]
    if max(height, width) <= _AS_PRODUCTS:
        down = _smearing(height, sigma, image.dtype, image.device)
        along = _smearing(width, sigma, image.dtype, image.device)
        return down @ image @ along.T
    kernel = _kernel(sigma).to(image.dtype).to(image.device)
    radius = len(kernel) // 2
    flat = image.reshape(-1, 1, height, width)
    flat = F.pad(flat, (radius, radius, radius, radius), mode="replicate")
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return flat.reshape(image.shape)


def _kernel(sigma: float) -> Tensor:
    radius = max(1, math.ceil(3 * sigma))
    weights = torch.exp(
        -0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2
    )
    return weights / weights.sum()


@lru_cache(maxsize=32)
def _smearing(side: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix [side, side] that blurs a column; what the kernel takes from beyond an end it takes from the end."""
    with torch.inference_mode(False), torch.no_grad():
        kernel = _kernel(sigma)
        offsets = torch.arange(len(kernel)) - len(kernel) // 2
        places = (torch.arange(side)[:, None] + offsets).clamp(0, side - 1)
        matrix = torch.zeros(side, side, dtype=kernel.dtype).scatter_add_(
            1, places, kernel.repeat(side, 1)
        )
        return matrix.to(dtype).to(device)  # Macs take no float64
