"""What plain noise and blur would have done at the same visible cost: the bar a protection must clear."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..regions.morphology import gaussian_blur
from .quality import eight_bit, ssim

Degradation = Callable[[Tensor, float], Tensor]
"""(picture [1,3,H,W], strength) -> picture; more strength, less SSIM."""


def noisy(image: Tensor, sigma: float, *, seed: int = 0) -> Tensor:
    """White Gaussian noise of standard deviation `sigma`; the pattern depends on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.randn(image.shape, generator=generator).to(image)
    return (image + sigma * pattern).clamp(0, 1)


def blurred(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of `sigma` pixels."""
    return gaussian_blur(image, sigma)


def at_equal_ssim(
    image: Tensor,
    target: float,
    degrade: Degradation,
    *,
    region: Tensor | None = None,
    strongest: float = 1.0,
    tolerance: float = 1e-3,
) -> Tensor:
    """The picture degraded until its SSIM to itself is `target`, rounded to 8 bits.

    image [1,3,H,W]; region [1,1,H,W]: the change is kept to it, as the protection's is; strongest:
    the upper end of the search (noise: 1, blur: some pixels). Raises FluxGuardError when even
    that does not go down to `target`.
    """
    if not 0 < target < 1:
        raise FluxGuardError(f"The SSIM to reach lies between 0 and 1; got {target}.")

    def at(strength: float) -> Tensor:
        changed = degrade(image, strength)
        if region is not None:
            changed = torch.lerp(image, changed, region.to(image))
        return eight_bit(changed)

    low, high = 0.0, strongest
    if ssim(at(high), image) > target:
        raise FluxGuardError(
            f"Strength {strongest:g} still leaves an SSIM above {target:.4f}: allow a stronger "
            "change, or compare at a higher SSIM."
        )
    result = at(high)
    for _ in range(30):
        middle = (low + high) / 2
        result = at(middle)
        reached = ssim(result, image)
        if abs(reached - target) <= tolerance:
            break
        low, high = (middle, high) if reached > target else (low, middle)
    return result
