"""Inversion and generation: two loops over one step function."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ..errors import FluxGuardError
from .controls import EditControl
from .field import Block, ValueTap, VelocityField, require_finite
from .recipe import Recipe, Tokens
from .schedule import check_sigmas
from .solvers import SolverName, solver_named
from .storage import AS_COMPUTED, Storage, Stored
from .trajectory import Evaluation, Trajectory, ValueKey

# Called after each interval with the number done, the number in all, and the latent. It may raise to stop.
Progress = Callable[[int, int, Tensor], None]


@torch.no_grad()
def invert(
    field: VelocityField,
    latent: Tensor,
    sigmas: Tensor,
    *,
    solver: SolverName = "midpoint",
    # attention values to keep
    value_intervals: int = 5,
    blocks: Sequence[Block] | None = None,
    tokens: Tokens = "image",
    recipe: Recipe | None = None,
    # storage
    velocity_storage: Storage = AS_COMPUTED,
    value_storage: Storage = AS_COMPUTED,
    progress: Progress | None = None,
) -> Trajectory:
    """RF inversion with velocity caching: walk σ from 0 to σ_0 and keep what was seen (Flux-Guard 3.2).

    Args:
        field: velocity at the source prompt and guidance 1.
        latent: the picture [B, C, H, W] in model space.
        sigmas: grid [N + 1] falling to 0, as ``flux_schedule`` makes it.
        solver: ``midpoint`` is the paper's second-order solver.
        value_intervals: keep attention values in the first so many intervals of the generation.
        blocks: blocks whose values are kept; None means the published ones, scaled to the depth.
        tokens: keep the values of ``image`` tokens, or of ``all``.
        recipe: what later edits are meant to do; carried along, not read here.

    Returns:
        A trajectory; the latent and the velocities are float32.
    """
    sigmas, rule = check_sigmas(sigmas), solver_named(solver)
    chosen = frozenset(field.layout.structure if blocks is None else blocks)
    grid, z = sigmas.tolist(), latent.detach().clone().float()
    count = len(grid) - 1
    velocities: dict[int, tuple[Stored, ...]] = {}
    values: dict[ValueKey, Stored] = {}
    velocity_shelf = velocity_storage.shelf(rule.evaluations(count))
    value_shelf = value_storage.shelf(rule.evaluations_in(value_intervals, count) * len(chosen))
    text_kept = 0

    def keep(at: Evaluation) -> ValueTap | None:
        if at.interval >= value_intervals or not chosen:
            return None

        def record(block: Block, seen: Tensor, text_tokens: int) -> None:
            nonlocal text_kept
            if block in chosen:
                text_kept = text_tokens if tokens == "all" else 0
                kept = seen if tokens == "all" else seen[:, text_tokens:]
                values[at.interval, at.stage, block] = value_shelf.put(kept)

        return record

    previous: Tensor | None = None
    last: Stored | None = None
    for i in reversed(range(count)):

        def evaluate(x: Tensor, sigma: float, stage: int, i: int = i) -> Tensor:
            return require_finite(field(x, sigma, keep(Evaluation(i, stage, sigma))).float(), sigma)

        z, seen = rule.step(evaluate, z, grid[i + 1], grid[i], previous)
        # FireFlow hands a velocity on: keep it once.
        velocities[i] = tuple(
            last if last is not None and v is previous else velocity_shelf.put(v) for v in seen
        )
        previous, last = seen[-1], velocities[i][-1]
        if progress:
            progress(count - i, count, z)
    if value_intervals and chosen and not values:
        raise FluxGuardError(
            "The model never showed its attention values, so nothing could be kept for the injection. A replaced "
            "transformer, fused projections or a step-skipping cache hides them.",
            "Switch it off, or set the value intervals to 0.",
        )
    return Trajectory(
        sigmas=sigmas,
        source=latent.detach().clone().float(),
        terminal=z,
        velocities=tuple(velocities[i] for i in range(count)),
        values=MappingProxyType(values),
        text_tokens=text_kept,
        solver=solver,
        layout=field.layout,
        recipe=recipe or Recipe(solver=solver, tokens=tokens),
    )


@dataclass(frozen=True, eq=False)
class State:
    """A generation under way: ``interval`` is the next one to run."""

    latent: Tensor
    interval: int = 0

    @property
    def previous(self) -> Tensor | None:
        """The velocity that moved the latent last; None at the start."""
        return None


@dataclass(frozen=True, eq=False)
class Moved(State):
    """A generation after its first interval."""

    velocity: Tensor = dataclasses.field(kw_only=True)

    @property
    def previous(self) -> Tensor:
        return self.velocity


def advance(
    field: VelocityField,
    trajectory: Trajectory,
    state: State,
    controls: Sequence[EditControl] = (),
    solver: SolverName | None = None,
) -> Moved:
    """Carry a generation over one interval.

    The batch may hold several branches of the trajectory's batch, one after the other.
    """
    rule = solver_named(solver or trajectory.solver)
    i, grid = state.interval, trajectory.sigmas.tolist()

    def evaluate(x: Tensor, sigma: float, stage: int) -> Tensor:
        if rule.stages == 1:
            stage = trajectory.stages - 1  # a one-evaluation sampler uses the effective record
        at = Evaluation(i, stage, sigma)
        velocity = require_finite(field(x, sigma, _chain(controls, at)).float(), sigma)
        for control in controls:
            velocity = control.steer(at, velocity)
        return velocity

    latent, seen = rule.step(evaluate, state.latent, grid[i], grid[i + 1], state.previous)
    return Moved(latent, i + 1, velocity=seen[-1])


@torch.no_grad()
def generate(
    field: VelocityField,
    trajectory: Trajectory,
    controls: Sequence[EditControl] = (),
    *,
    solver: SolverName | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Generate from a trajectory's terminal latent.

    Args:
        field: velocity at the target prompt and guidance (paper: 5.5).
        trajectory: the inversion of the source picture.
        controls: consulted in this order at each evaluation.
        solver: None means the trajectory's own.

    Returns:
        Latent [B, C, H, W] in model space.
    """
    trajectory.check_model(field.layout)
    state = State(trajectory.terminal)
    while state.interval < trajectory.intervals:
        state = advance(field, trajectory, state, controls, solver)
        if progress:
            progress(state.interval, trajectory.intervals, state.latent)
    return state.latent


def _chain(controls: Sequence[EditControl], at: Evaluation) -> ValueTap | None:
    taps = [tap for control in controls if (tap := control.tap(at)) is not None]
    if len(taps) <= 1:
        return taps[0] if taps else None

    def tap_all(block: Block, values: Tensor, text_tokens: int) -> Tensor | None:
        replaced = None
        for tap in taps:
            result = tap(block, values if replaced is None else replaced, text_tokens)
            replaced = replaced if result is None else result
        return replaced

    return tap_all
