"""What a protection may vary: a latent that is decoded, or the picture's own pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import FluxGuardError

Decode = Callable[[Tensor], Tensor]  # model-space latent -> picture [B, 3, H, W] in [0, 1]
Norm = Literal["linf", "l2"]


@dataclass(frozen=True, eq=False)
class LatentSpace:
    """Changes of a latent; the variable is the change [B, C, h, w] in float32.

    Args:
        base: the latent that is changed, in model space.
        decode: differentiable decoder.
        velocity, sigma: decode the estimate z - σ·v of the finished picture instead of the noisy latent.
        region: where it may change, [1 or B, 1, h, w] in [0, 1]; None means everywhere.
        reference, bound: no value may differ from ``reference`` by more than ``bound``; None leaves it free.
        jitter, generator: seeded noise of this size to begin with.
    """

    base: Tensor
    decode: Decode
    velocity: Tensor | None = None
    sigma: float = 0.0
    region: Tensor | None = None
    reference: Tensor | None = None
    bound: float | None = None
    jitter: float = 0.0
    generator: torch.Generator | None = None

    def start(self) -> Tensor:
        """No change, or the jitter."""
        if not self.jitter:
            return torch.zeros_like(self.base, dtype=torch.float32)
        noise = torch.randn(self.base.shape, generator=self.generator)
        return self.jitter * noise.to(self.base.device)

    def latent(self, variable: Tensor) -> Tensor:
        """The changed latent, inside region and bound."""
        latent = self.base + (variable if self.region is None else self.region * variable)
        if self.bound is None:
            return latent
        reference = self.base if self.reference is None else self.reference
        return reference + (latent - reference).clamp(-self.bound, self.bound)

    def picture(self, variable: Tensor) -> Tensor:
        """The decoded picture."""
        latent = self.latent(variable)
        if self.velocity is not None:
            latent = latent - self.sigma * self.velocity
        return self.decode(latent)

    def project(self, variable: Tensor) -> Tensor:
        """Region and bound act on the latent itself, so that the optimiser's moments stay whole."""
        return variable

    def settle(self, variable: Tensor) -> Tensor:
        """Nothing is rounded."""
        return variable


@dataclass(frozen=True, eq=False)
class PixelSpace:
    """A picture's own pixels, within a budget; the variable is the picture [B, 3, H, W] in [0, 1].

    Args:
        source: the picture; taken to lie on the grid of 1/255 where the result is to.
        budget: largest change, of any value (``linf``) or of a picture's root of summed squares (``l2``).
        mask: share of the budget that a pixel has, [1 or B, 1 or 3, H, W] in [0, 1]; None means all.
        random_start: begin at a random point of the budget instead of at the source.
        initial: begin here instead, where an earlier descent ended.
        grid: round the result to steps of 1/255, as an 8-bit file will.
    """

    source: Tensor
    budget: float = 8 / 255
    norm: Norm = "linf"
    mask: Tensor | None = None
    random_start: bool = True
    initial: Tensor | None = None
    grid: bool = True
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise FluxGuardError(f"Expected the norm linf or l2, got '{self.norm}'.")
        if self.budget <= 0:
            raise FluxGuardError(f"Expected a budget above 0, got {self.budget:g}.")

    def start(self) -> Tensor:
        """Where an earlier descent ended, a random point of the budget, or the source."""
        if self.initial is not None:
            return self.initial
        if not self.random_start:
            return self.source
        noise = torch.rand(self.source.shape, generator=self.generator).to(self.source) * 2 - 1
        return self.source + self.budget * noise

    def picture(self, variable: Tensor) -> Tensor:
        """The variable itself."""
        return variable

    def project(self, variable: Tensor) -> Tensor:
        """Into the budget, the mask and [0, 1]."""
        change = variable - self.source
        if self.norm == "linf":
            limit = self._limit()
            change = change.clamp(-limit, limit)
        else:
            change = change if self.mask is None else change * (self.mask > 0)
            change = change * (self.budget / self._length(change).clamp(min=1e-12)).clamp(max=1)
        return (self.source + change).clamp(0, 1)

    def settle(self, variable: Tensor) -> Tensor:
        """On the grid: rounded, and towards the source where rounding would leave the budget."""
        if not self.grid:
            return variable
        steps = (variable - self.source) * 255
        nearest, inner = steps.round() / 255, steps.trunc() / 255
        if self.norm == "linf":
            fits = nearest.abs() <= self._limit() + 1e-6
        else:
            fits = self._length(nearest) <= self.budget + 1e-6
        kept = self.source + torch.where(fits, nearest, inner)
        return (kept * 255).round().clamp(0, 255) / 255

    def _limit(self) -> Tensor:
        """The largest change of each value."""
        share = torch.ones_like(self.source[:, :1]) if self.mask is None else self.mask
        return self.budget * share.to(self.source)

    @staticmethod
    def _length(change: Tensor) -> Tensor:
        return change.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
