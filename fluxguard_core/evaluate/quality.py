"""How far one picture is from another: PSNR, SSIM, and PSNR outside a region."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import FluxGuardError


@dataclass(frozen=True)
class Quality:
    """Closeness of a picture to its reference; PSNR in dB (inf when equal), SSIM in [-1,1].

    outside: PSNR over the pixels that were to stay as they were; None where no region was given or
    nothing lies outside it.
    """

    psnr: float
    ssim: float
    outside: float | None = None


def _alike(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4:
        raise FluxGuardError(
            f"Two pictures [B,C,H,W] of one size are compared; got {tuple(a.shape)} and "
            f"{tuple(b.shape)}.",
            "Scale neither: compare pictures of the same run.",
        )


def _decibels(error: float) -> float:
    return math.inf if error == 0 else -10 * math.log10(error)


def _precise(picture: Tensor) -> Tensor:
    """In double precision, on the CPU: not every device has it."""
    return picture.cpu().double()


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of [B,C,H,W] in [0,1], dB over the whole batch; inf when equal."""
    _alike(a, b)
    return _decibels(float((_precise(a) - _precise(b)).square().mean()))


def masked_psnr(a: Tensor, b: Tensor, mask: Tensor, *, outside: bool = True) -> float:
    """PSNR over the pixels where mask [B|1,1,H,W] is 0 (outside=True), or above 0 (False).

    A soft mask's rim counts as inside. Raises FluxGuardError when no pixel is left.
    """
    _alike(a, b)
    if mask.shape[-2:] != a.shape[-2:]:
        raise FluxGuardError(
            f"The mask is {tuple(mask.shape[-2:])} and the pictures {tuple(a.shape[-2:])} (height, "
            "width).",
            "Give the mask at pixel size.",
        )
    chosen = (mask.to(a.device) == 0) if outside else (mask.to(a.device) > 0)
    chosen = chosen.expand_as(a)
    if not bool(chosen.any()):
        raise FluxGuardError(
            f"No pixel lies {'outside' if outside else 'inside'} the mask, so nothing can be "
            "compared there.",
            "Use psnr on the whole picture.",
        )
    return _decibels(float((_precise(a[chosen]) - _precise(b[chosen])).square().mean()))


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of [B,C,H,W] in [0,1]: 11-pixel Gaussian window, sigma 1.5, mean.

    Wang et al. 2004, as kornia computes it (valid part only).
    """
    _alike(a, b)
    if min(a.shape[-2:]) < 11:
        raise FluxGuardError(f"SSIM needs 11 pixels a side; got {tuple(a.shape[-2:])}.")
    values = _kornia_metrics().ssim(_precise(a), _precise(b), window_size=11, padding="valid")
    return float(values.mean())


def _kornia_metrics() -> Any:
    try:
        import kornia.metrics
    except ImportError as error:
        raise FluxGuardError("SSIM needs kornia.", "Run ‹install kornia›.") from error
    return kornia.metrics


def quality(a: Tensor, b: Tensor, region: Tensor | None = None) -> Quality:
    """PSNR and SSIM of `a` against `b`, and PSNR outside `region` ([B|1,1,H,W], 0 = outside)."""
    outside = None
    if region is not None and bool((region == 0).any()):
        outside = masked_psnr(a, b, region)
    return Quality(psnr(a, b), ssim(a, b), outside)


def eight_bit(image: Tensor) -> Tensor:
    """The picture as it will be after saving: clamped to [0,1] and rounded to 256 levels."""
    return torch.round(image.detach().float().clamp(0, 1) * 255) / 255
