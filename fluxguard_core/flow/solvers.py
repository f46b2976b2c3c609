"""Ordinary differential equation solvers for rectified flows, one implementation for both directions.

A solver is a step from σ = s to σ = t; t > s inverts, t < s generates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..errors import FluxGuardError

SolverName = Literal["midpoint", "fireflow", "euler"]
Evaluate = Callable[[Tensor, float, int], Tensor]  # latent, σ, stage -> velocity
Step = Callable[[Evaluate, Tensor, float, float, Tensor | None], tuple[Tensor, tuple[Tensor, ...]]]


def midpoint_step(
    evaluate: Evaluate, z: Tensor, s: float, t: float, previous: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Explicit midpoint rule: two evaluations, second order.

    The paper's update z + h·v + h²/2·(v_mid - v)/(h/2) (RF-Solver, Flux-Guard Eq. 3) is algebraically
    z + h·v_mid.
    """
    del previous
    h = t - s
    start = evaluate(z, s, 0)
    middle = evaluate(z + h / 2 * start, s + h / 2, 1)
    return z + h * middle, (start, middle)


def fireflow_step(
    evaluate: Evaluate, z: Tensor, s: float, t: float, previous: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """FireFlow: the last midpoint velocity stands in for the start; one evaluation, second order."""
    h = t - s
    start = evaluate(z, s, 0) if previous is None else previous
    middle = evaluate(z + h / 2 * start, s + h / 2, 1)
    return z + h * middle, (start, middle)


def euler_step(
    evaluate: Evaluate, z: Tensor, s: float, t: float, previous: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Euler: one evaluation, first order."""
    del previous
    start = evaluate(z, s, 0)
    return z + (t - s) * start, (start,)


@dataclass(frozen=True)
class Solver:
    """A step and the number of velocities it uses in an interval; the last one moves the latent.

    Args:
        reuses: the last velocity of an interval stands in for the first one of the next.
    """

    name: SolverName
    step: Step
    stages: int
    reuses: bool = False

    @property
    def fresh(self) -> int:
        """Network evaluations of an interval that follows another one."""
        return self.stages - self.reuses

    def evaluations(self, intervals: int) -> int:
        """Network evaluations over ``intervals`` consecutive intervals, started afresh."""
        return intervals * self.fresh + (self.reuses and intervals > 0)

    def evaluations_in(self, first: int, intervals: int) -> int:
        """Those of an inversion over ``intervals`` that lie in the first so many of the generation.

        The walk begins at the last interval, so only all of them hold its first evaluation.
        """
        return first * self.fresh + (self.reuses and 0 < first >= intervals)


SOLVERS: dict[str, Solver] = {
    "midpoint": Solver("midpoint", midpoint_step, 2),
    "fireflow": Solver("fireflow", fireflow_step, 2, reuses=True),
    "euler": Solver("euler", euler_step, 1),
}


def solver_named(name: str) -> Solver:
    """Look a solver up by name."""
    if name not in SOLVERS:
        raise FluxGuardError(f"Expected a solver out of {', '.join(SOLVERS)}, got '{name}'.")
    return SOLVERS[name]
