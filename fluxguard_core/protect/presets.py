"""Three ways to run the whole method: as published, better, and faster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..errors import FluxGuardError
from ..flow.controls import Order, Tokens
from ..flow.solvers import SolverName
from .refiner import RefinerSettings

PresetName = Literal["paper", "default", "fast"]


@dataclass(frozen=True)
class Preset:
    """Every setting of an edit with protection.

    Args:
        steps: intervals of the schedule.
        injected: intervals with attention-V injection; None takes the published rule (5 of 25, or 3 where
            the mask covers less than a tenth of the picture).
        fusion: ``all`` intervals, which keeps the background exactly, or the published window (5..19 of 25).
        attacked: the refiner follows each of the last so many intervals.
        aligned: recognisers see aligned faces; otherwise the whole frame, squashed.
        random_views: further random views a step.
        face_only: the perturbation stays on a feathered face region.
        push_away: leave the source also where a target is approached.
        margin: how far past the threshold the similarity must get before it stops. Generous, for what is left
            over is what carries to recognisers that were not attacked.
        tiny: gradients through the tiny decoder, checked against the full one.
    """

    name: PresetName
    steps: int = 25
    solver: SolverName = "midpoint"
    source_guidance: float = 1.0
    guidance: float = 5.5
    injected: int | None = None
    tokens: Tokens = "image"
    fusion: Literal["all", "paper"] = "all"
    order: Order = "aligned"
    attacked: int = 5
    aligned: bool = True
    random_views: int = 2
    face_only: bool = True
    push_away: bool = True
    margin: float = 0.3
    tiny: bool = False
    refiner: RefinerSettings = field(default_factory=RefinerSettings)


_BETTER = RefinerSettings(
    learning_rate=0.05,
    estimate="x0",
    keep_moments=True,
    keep_best=True,
    jitter=0.02,
)

PRESETS: dict[str, Preset] = {
    "paper": Preset(
        "paper",
        tokens="all",
        fusion="paper",
        order="released",
        aligned=False,
        random_views=0,
        face_only=False,
        push_away=False,
        margin=0.0,
    ),
    "default": Preset("default", refiner=_BETTER),
    "fast": Preset("fast", solver="fireflow", random_views=1, tiny=True, refiner=_BETTER),
}


def preset_named(name: str) -> Preset:
    """Look a preset up by name."""
    if name not in PRESETS:
        raise FluxGuardError(f"Expected a preset out of {', '.join(PRESETS)}, got '{name}'.")
    return PRESETS[name]
