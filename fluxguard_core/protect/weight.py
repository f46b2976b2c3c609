"""The adaptive weight between identity and appearance (Flux-Guard 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .engine import Reading


@dataclass(frozen=True)
class AdaptiveWeight:
    """w = clip(low + (high - low)·sigmoid(-slope·(L_perc - middle)), low, high), without gradient.

    The published values. While the picture still looks the same the identity pulls with full weight; as it
    drifts past ``middle`` the pull fades to ``low``.
    """

    slope: float = 20.0
    middle: float = 0.3
    low: float = 0.05
    high: float = 1.0

    def __call__(self, readings: Mapping[str, Reading]) -> Tensor:
        """All readings -> the identity's weight [B]."""
        return self.of(readings["perceptual"].loss)

    def of(self, perceptual: Tensor) -> Tensor:
        """Perceptual distance [B] -> weight [B]."""
        gate = torch.sigmoid(-self.slope * (perceptual.detach() - self.middle))
        return (self.low + (self.high - self.low) * gate).clamp(self.low, self.high)
