"""HaarPSI: how alike two pictures look, from Haar wavelets of luma and from chroma.

Reisenhofer, Bosse, Kutyniok, Wiegand 2018 (Signal Processing: Image Communication 61), with the constants
of the paper (c = 30, alpha = 4.2), three scales, and its halving of the pictures. The same numbers as piq.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FluxGuardError

_C, _ALPHA, _SCALES = 30.0, 4.2, 3
_SMALLEST = 2 ** (_SCALES + 1)
_YIQ = (
    (0.299, 0.587, 0.114),
    (0.5959, -0.2746, -0.3213),
    (0.2115, -0.5227, 0.3112),
)


def haarpsi(a: Tensor, b: Tensor, region: Tensor | None = None) -> Tensor:
    """Likeness [B] in [0, 1] of pictures [B, 3, H, W] in [0, 1]; differentiable.

    Args:
        region: where it is looked at, [1 or B, 1, H, W] in [0, 1]; None means everywhere.

    Raises:
        FluxGuardError: two sizes, or fewer than 16 pixels a side.
    """
    if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3 or min(a.shape[-2:]) < _SMALLEST:
        raise FluxGuardError(
            f"HaarPSI compares two pictures [B, 3, H, W] of one size, at least {_SMALLEST} pixels "
            f"a side; got {tuple(a.shape)} and {tuple(b.shape)}."
        )
    one, two = _halved(a), _halved(b)
    similar, weights = _luma(one[:, :1], two[:, :1])
    similar = torch.cat([similar, _chroma(one[:, 1:], two[:, 1:])], 1)
    weights = torch.cat([weights, weights.mean(1, keepdim=True)], 1)
    if region is not None:
        weights = weights * F.avg_pool2d(_even(region.to(a)), 2)
    eps = torch.finfo(a.dtype).eps
    total = ((_ALPHA * similar).sigmoid() * weights).sum((1, 2, 3)) + eps
    score = total / (weights.sum((1, 2, 3)) + eps)
    return (score.logit() / _ALPHA).square()


def _even(picture: Tensor) -> Tensor:
    """With a row and a column of zeros where one of the sides is odd."""
    odd = max(picture.shape[-2] % 2, picture.shape[-1] % 2)
    return F.pad(picture, (0, odd, 0, odd))


def _halved(picture: Tensor) -> Tensor:
    """YIQ in 0..255 at half the size."""
    matrix = picture.new_tensor(_YIQ)
    return F.avg_pool2d(_even(torch.einsum("ij,bjhw->bihw", matrix, 255 * picture)), 2)


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    return (2 * a * b + _C) / (a.square() + b.square() + _C)


def _luma(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Similarity and weight [B, 2, h, w] by orientation: the fine scales are compared, the coarse one weighs."""
    scales_a, scales_b = _haar(a), _haar(b)
    fine = [_similarity(one, two) for one, two in zip(scales_a[:-1], scales_b[:-1], strict=True)]
    return torch.stack(fine).mean(0), torch.maximum(scales_a[-1], scales_b[-1])


def _haar(luma: Tensor) -> list[Tensor]:
    """Magnitudes [B, 2, h, w] of the horizontal and the vertical wavelet, by scale."""
    magnitudes = []
    for scale in range(_SCALES):
        side = 2 ** (scale + 1)
        kernel = luma.new_full((side, side), 1 / side)
        kernel[side // 2 :] *= -1
        before, after = side // 2 - 1, side // 2
        padded = F.pad(luma, (before, after, before, after))
        magnitudes.append(F.conv2d(padded, torch.stack([kernel, kernel.T])[:, None]).abs())
    return magnitudes


def _chroma(a: Tensor, b: Tensor) -> Tensor:
    """Similarity [B, 1, h, w] of I and Q."""
    smooth = [F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2, stride=1).abs() for x in (a, b)]
    return _similarity(*smooth).mean(1, keepdim=True)
