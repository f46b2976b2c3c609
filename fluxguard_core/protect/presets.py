"""Three ways to run the whole method: as published, better, and faster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..errors import FluxGuardError
from ..flow.recipe import FusionWindow, Order, Recipe, Tokens
from ..flow.solvers import SolverName
from .goals import Goal
from .refiner import RefinerSettings
from .visibility import VisibilityBudget

PresetName = Literal["paper", "default", "fast"]


@dataclass(frozen=True)
class Preset:
    """Every setting of an edit with protection.

    Args:
        intervals: of the flow.
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
        own_units: the margin shrinks for recognisers to whom strangers differ little (see ``goals.Goal``).
        far: false accept rate whose thresholds count.
        tiny: gradients through the tiny decoder, checked against the full one.
        detail: what the autoencoder cannot hold of the source is laid under every decoded picture, in the
            optimisation and in the result; otherwise pictures are as they are decoded.
    """

    name: PresetName
    intervals: int = 25
    solver: SolverName = "midpoint"
    source_guidance: float = 1.0
    guidance: float = 5.5
    injected: int | None = None
    tokens: Tokens = "image"
    fusion: FusionWindow = "all"
    order: Order = "aligned"
    attacked: int = 5
    aligned: bool = True
    random_views: int = 2
    face_only: bool = True
    push_away: bool = True
    margin: float = 0.3
    own_units: bool = True
    far: float = 1e-2
    tiny: bool = False
    detail: bool = True
    refiner: RefinerSettings = field(default_factory=RefinerSettings)

    @property
    def recipe(self) -> Recipe:
        """What of it concerns the flow, to travel on a trajectory."""
        return Recipe(self.name, self.solver, self.tokens, self.fusion, self.order, self.injected)

    @property
    def goal(self) -> Goal:
        """When an attacked recogniser has had enough."""
        return Goal(self.far, self.margin, self.own_units)


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
        detail=False,
        own_units=False,
    ),
    "default": Preset("default", refiner=_BETTER),
    "fast": Preset("fast", solver="fireflow", random_views=1, tiny=True, refiner=_BETTER),
}


def preset_named(name: str) -> Preset:
    """Look a preset up by name."""
    if name not in PRESETS:
        raise FluxGuardError(f"Expected a preset out of {', '.join(PRESETS)}, got '{name}'.")
    return PRESETS[name]


@dataclass(frozen=True)
class PhotoPreset:
    """Every setting of a protection without an edit.

    Args:
        budget: the least likeness to the photo.
        steps, views: of the descent, and random views a step.
        step_size: root mean square of the first step, in units of full luma.
        look: weight of 1 - HaarPSI beside the identity, whose unit is a spread of strangers.
        coarsest: what outlasts a blur of so many pixels is taken out of the change; chroma: weight of colour.
        latent: size of a step of the latent, where there is an autoencoder, against one of the pixels.
    """

    name: str
    budget: VisibilityBudget
    steps: int = 24
    views: int = 2
    step_size: float = 0.05
    look: float = 10.0
    coarsest: float = 8.0
    chroma: float = 1 / 3
    latent: float = 1.0


PHOTO_PRESETS: dict[str, PhotoPreset] = {
    "default": PhotoPreset("default", VisibilityBudget()),
    "gentle": PhotoPreset("gentle", VisibilityBudget(40.0, 0.95, 6.0, 2.2, 3.5, 1.5)),
    # However it looks: measured for what it hides, not for what it keeps.
    "strong": PhotoPreset("strong", VisibilityBudget(30.0, 0.80, 24.0, 6.0, 16.0, 8.0), look=5.0),
}


def photo_preset_named(name: str) -> PhotoPreset:
    """Look a photo's preset up by name."""
    if name not in PHOTO_PRESETS:
        raise FluxGuardError(f"Expected a preset out of {', '.join(PHOTO_PRESETS)}, got '{name}'.")
    return PHOTO_PRESETS[name]
