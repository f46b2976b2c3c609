"""Rectified-flow inversion and generation with a cached trajectory."""

from __future__ import annotations

from .controls import EditControl, ValueInjection, VelocityFusion
from .field import Block, Counted, Layout, ValueTap, VelocityField
from .recipe import Recipe
from .run import Moved, State, advance, generate, invert
from .schedule import flux_schedule
from .solvers import SOLVERS, Solver, SolverName
from .storage import Storage
from .trajectory import Evaluation, Trajectory, estimate_bytes
from .trajectory_file import load_trajectory, save_trajectory

__all__ = [
    "SOLVERS",
    "Block",
    "Counted",
    "EditControl",
    "Evaluation",
    "Layout",
    "Moved",
    "Recipe",
    "Solver",
    "SolverName",
    "State",
    "Storage",
    "Trajectory",
    "ValueInjection",
    "ValueTap",
    "VelocityField",
    "VelocityFusion",
    "advance",
    "estimate_bytes",
    "flux_schedule",
    "generate",
    "invert",
    "load_trajectory",
    "save_trajectory",
]
