"""Masks as they travel: float [B,1,H,W] in [0,1], 1 = may change, and their latent-size copies."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FluxGuardError
from .morphology import dilate, gaussian_blur
from .shapes import EmptyMask, regions_mask

FaceParser = Callable[[Tensor], Tensor]
"""[3,H,W] RGB in [0,1] -> labels [H,W], CelebAMask-HQ ids."""


def checked(mask: Tensor) -> Tensor:
    """The mask as float [B,1,H,W]; raises FluxGuardError for another shape or range, EmptyMask."""
    while mask.ndim < 4:
        mask = mask[None]
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise FluxGuardError(f"A mask must be [B,1,H,W]; got {tuple(mask.shape)}.")
    mask = mask.to(torch.float32) if not mask.is_floating_point() else mask
    if not bool(torch.isfinite(mask).all()) or mask.min() < 0 or mask.max() > 1:
        raise FluxGuardError(
            "A mask's values must lie in [0,1].", "Rescale it (white = may change)."
        )
    if not bool((mask.flatten(1).amax(1) > 0).all()):
        raise EmptyMask(
            "The mask is empty, so nothing would be edited.",
            "Paint the part that may change white, or name a region in words.",
        )
    return mask


def mask_from_labels(
    labels: Tensor, regions: tuple[str, ...], landmarks: Tensor | None = None
) -> Tensor:
    """Hard mask [1,1,H,W] of named regions on one label map [H,W]."""
    return regions_mask(regions, labels, landmarks).to(torch.float32)[None, None]


def union(*masks: Tensor) -> Tensor:
    """Pixelwise maximum of masks that broadcast."""
    return _folded(torch.maximum, masks)


def intersection(*masks: Tensor) -> Tensor:
    """Pixelwise minimum of masks that broadcast."""
    return _folded(torch.minimum, masks)


def _folded(join: Callable[[Tensor, Tensor], Tensor], masks: tuple[Tensor, ...]) -> Tensor:
    if not masks:
        raise FluxGuardError("No mask was given to combine.", "Give at least one.")
    sizes = {tuple(mask.shape[-2:]) for mask in masks}
    if len(sizes) > 1:
        listed = ", ".join(f"{w}x{h}" for h, w in sorted(sizes))
        raise FluxGuardError(f"Masks of different sizes cannot be combined: {listed}.")
    result = masks[0]
    for mask in masks[1:]:
        result = join(result, mask)
    return result


def invert(mask: Tensor) -> Tensor:
    """1 - mask."""
    return 1 - mask


def grow(mask: Tensor, pixels: float) -> Tensor:
    """Grow by `pixels` on every side; negative shrinks."""
    if pixels < 0:
        return 1 - dilate(1 - mask, -2 * pixels)
    return dilate(mask, 2 * pixels)


def feather(mask: Tensor, pixels: float) -> Tensor:
    """Soften the edge over about `pixels` outside the mask; what was 1 stays 1, far away stays 0."""
    if pixels <= 0:
        return mask
    return torch.maximum(mask, gaussian_blur(dilate(mask, pixels), pixels / 4).clamp(0, 1))


def coverage(mask: Tensor) -> float:
    """Share of the picture under the mask, 0..1 (mean over the batch)."""
    return float(mask.to(torch.float32).mean())


def soft_mask(mask: Tensor, factor: int, *, size: tuple[int, int] | None = None) -> Tensor:
    """Mean of the mask over each factor x factor cell: [B,1,H,W] -> [B,1,H/factor,W/factor].

    factor 8 is the autoencoder's latent, 16 FLUX's token grid. As in the released code the mask is
    first blurred by one pixel and then averaged by area. Pictures whose size is no multiple are
    padded at the right and bottom by their edge, never stretched; `size` (h, w) asks for more cells
    of the same kind.
    """
    height, width = mask.shape[-2:]
    rows, columns = size if size is not None else (-(-height // factor), -(-width // factor))
    down, right = rows * factor - height, columns * factor - width
    if down < 0 or right < 0:
        raise FluxGuardError(
            f"A mask of {width}x{height} pixels does not fit into {columns}x{rows} cells of "
            f"{factor} pixels.",
            "Give the mask of the picture that was encoded.",
        )
    soft = gaussian_blur(mask.to(torch.float32), 1.0)
    soft = F.pad(soft, (0, right, 0, down), mode="replicate")
    soft = F.avg_pool2d(soft, factor).clamp(0, 1)
    # Whole cells are exactly 1: a blend may then drop the source without a rounding residue.
    return torch.where(soft > 1 - 1e-6, torch.ones_like(soft), soft)
