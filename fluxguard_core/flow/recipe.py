"""What an inversion means its edits to do, so that one choice configures every step behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .solvers import SolverName

Tokens = Literal["image", "all"]
Order = Literal["aligned", "released"]
FusionWindow = Literal["all", "paper"]


@dataclass(frozen=True)
class Recipe:
    """Choices of a preset that concern the flow; they travel on the trajectory.

    Args:
        name: of the preset.
        solver: that inverts and generates.
        tokens: whose attention values are kept and injected.
        window: intervals in which velocities are fused.
        order: in which the record is read.
        injected: intervals with attention-V injection; None takes the published rule.
    """

    name: str = "default"
    solver: SolverName = "midpoint"
    tokens: Tokens = "image"
    window: FusionWindow = "all"
    order: Order = "aligned"
    injected: int | None = None
