"""One budget for every shield: what changes with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from .cloning import CloneShield
from .edits import EditShield
from .training import TrainingShield

Shield = TypeVar("Shield", EditShield, TrainingShield, CloneShield)


def with_budget(shield: Shield, budget: float) -> Shield:
    """The shield with another largest change, in units of [0, 1], and its steps scaled alike."""
    return replace(shield, budget=budget, step_size=shield.step_size * budget / shield.budget)
