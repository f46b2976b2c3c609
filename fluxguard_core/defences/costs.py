"""How many passes through the networks a shield takes, known before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from .edits import WITH_A_WAY_BACK, EditShield
from .training import TrainingShield

# What FLUX's encoder keeps for its way back, reckoned from its widest level: sixteen tensors of 128 channels at full
# size, in float32. A tiny autoencoder keeps less.
ENCODER_BYTES_PER_PIXEL = 4 * 128 * 16


@dataclass(frozen=True)
class Passes:
    """Passes a picture: through the autoencoder forward and back, the transformer forward, and forward and back."""

    autoencoder: int
    forward: int
    back: int


def edit_passes(shield: EditShield, size: tuple[int, int]) -> Passes:
    """Of a shield against edits on a picture of (height, width)."""
    tiles, twice = len(shield.tiles(size)), 2 if shield.flat else 1
    evaluations = tiles * shield.steps * twice
    forward = back = 0
    for name in shield.terms:
        each = len(shield.waypoints) if name == "trajectory" else 1
        if name in ("score", "redraw", "kontext edit"):
            forward += evaluations
        if name in WITH_A_WAY_BACK:
            back += evaluations * each
            if shield.dynamic:
                hardenings = (shield.steps - 1) // shield.every * shield.hardening
                back += hardenings * each
                forward += hardenings if name == "redraw" else 0
        if name == "trajectory":
            forward += shield.intervals + len(shield.waypoints)
    return Passes(evaluations * len(shield.terms), forward, back)


def training_passes(shield: TrainingShield, pictures: int) -> Passes:
    """Of a shield against training, a picture; the stand-ins' own steps are shared by all of them."""
    steps = shield.steps
    if not shield.backward:
        return Passes(steps, shield.epochs * shield.conditional, 0)
    fits = (shield.static_steps + shield.epochs * shield.fitting) // max(1, pictures)
    return Passes(steps, shield.epochs * shield.attention, steps + fits)
