"""When a recogniser has had enough: past its threshold, or at the strangers' mean, in units of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..recognition.encoder import FaceEncoder

USUAL_SPREAD = 0.2
"""Standard deviation of strangers' cosines that a margin is written for."""


@dataclass(frozen=True)
class Goal:
    """How similar the person may stay, or must become to a target.

    Args:
        far: false accept rate whose threshold counts.
        margin: how far past the limit the similarity must get.
        own_units: the margin is meant for strangers that spread by 0.2 and shrinks with them, so that it means
            the same for every recogniser; where their spread was not measured it is a plain cosine.
        at: the limit for leaving somebody: the ``threshold``, or the ``strangers``' mean where it was measured.
    """

    far: float = 1e-2
    margin: float = 0.05
    own_units: bool = True
    at: Literal["threshold", "strangers"] = "threshold"

    def limit(self, encoder: FaceEncoder, sign: int) -> float:
        """Cosine to get below (sign -1, leaving a person) or above (1, reaching a target)."""
        strangers = encoder.strangers
        if self.at == "strangers" and sign < 0 and strangers is not None:
            base = strangers.mean
        else:
            base = encoder.threshold(self.far)
        return base + sign * self.margin * self.unit(encoder)

    def unit(self, encoder: FaceEncoder) -> float:
        """What one unit of the margin is as a cosine of this recogniser: at most 1."""
        if not self.own_units or encoder.strangers is None:
            return 1.0
        return min(1.0, encoder.strangers.spread / USUAL_SPREAD)
