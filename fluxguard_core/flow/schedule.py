"""FLUX's shifted noise schedule (Flux-Guard, experimental settings; FLUX.1's own time shift)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import FluxGuardError

# μ is linear in the number of image tokens, through these two points.
SHIFT_AT = ((256, 0.5), (4096, 1.15))


def flux_schedule(steps: int, tokens: int) -> Tensor:
    """σ grid of ``steps`` intervals, from noise (1) down to the image (0).

    Args:
        steps: number of intervals N.
        tokens: image tokens L, which set the shift: larger pictures spend more steps in noise.

    Returns:
        float64 tensor [N + 1]: σ = e^μ / (e^μ + 1/t - 1) over t = 1 .. 0.
    """
    if steps < 1 or tokens < 1:
        raise FluxGuardError(
            f"Expected at least one step and one image token, got {steps} and {tokens}."
        )
    (low, mu_low), (high, mu_high) = SHIFT_AT
    mu = mu_low + (mu_high - mu_low) * (tokens - low) / (high - low)
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return 1 / (1 + math.exp(-mu) * (1 / t - 1))  # the same fraction, exact at both ends


def check_sigmas(sigmas: Tensor) -> Tensor:
    """Return ``sigmas`` as float64 on the CPU after checking that it is a grid from noise to image.

    Raises:
        FluxGuardError: fewer than two values, not finite, not strictly falling, or not ending at 0.
    """
    sigmas = sigmas.detach().cpu().double()  # not every device holds double precision
    falling = sigmas.ndim == 1 and sigmas.numel() >= 2 and bool((sigmas.diff() < 0).all())
    if not falling or sigmas[-1] != 0 or not 0 < sigmas[0] <= 1:
        raise FluxGuardError(
            "Expected σ values that fall strictly from at most 1 to exactly 0, got "
            f"{[round(s, 4) for s in sigmas.flatten().tolist()]}.",
            "Use the schedule of the picture's size.",
        )
    return sigmas
