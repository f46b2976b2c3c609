"""Picture geometry: padding to the model's grid and cropping back, never stretching."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Extend [B, C, H, W] to the right and below, repeating the border, to multiples of ``multiple``."""
    height, width = image.shape[-2:]
    return pad_to(image, (height + -height % multiple, width + -width % multiple))


def pad_to(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Extend [B, C, H, W] to the right and below, repeating the border, to ``size`` = (height, width)."""
    bottom, right = size[0] - image.shape[-2], size[1] - image.shape[-1]
    return F.pad(image, (0, right, 0, bottom), mode="replicate") if bottom or right else image


def crop_to(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Undo ``pad_to_multiple``: the upper left ``size`` = (height, width) of [B, C, H, W]."""
    return image[..., : size[0], : size[1]]
