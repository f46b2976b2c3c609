"""The whole method: one shared generation, then a clean and a protected branch side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FluxGuardError, Interrupted
from ..flow.controls import EditControl
from ..flow.field import VelocityField
from ..flow.run import Moved, Progress, State, advance
from ..flow.solvers import SolverName
from ..flow.trajectory import Trajectory
from .engine import Step
from .refiner import Branches, Refined
from .region import Window

# What ``Refiner`` is, and what a measurement of the loop alone may put in its place.
Refine = Callable[[Branches], Refined]


@dataclass(frozen=True, eq=False)
class Protection:
    """Two latents in model space, the edit and its protected twin, and how the second came about."""

    edited: Tensor
    protected: Tensor
    log: tuple[Step, ...]
    interrupted: bool = False


@torch.no_grad()
def edit_and_protect(
    field: VelocityField,
    trajectory: Trajectory,
    controls: Sequence[EditControl],
    refine: Refine,
    *,
    attacked_intervals: int = 5,
    solver: SolverName | None = None,
    window: Window | None = None,
    region: Tensor | None = None,
    one_batch: bool = True,
    begun: Moved | None = None,
    progress: Progress | None = None,
) -> Protection:
    """Generate an edit and protect it (Flux-Guard, whole method).

    Both branches are one up to and including the first attacked interval's ODE step, so that part is
    computed once. After it they run as one batch.

    Args:
        field: velocity at the target prompt and guidance.
        attacked_intervals: ``refine`` is called after each of the last so many intervals (paper: 5).
        window: part of the latent that it sees and changes; None means all of it.
        region: where in the window it may act, [1 or B, 1, h, w]; elsewhere the twin stays the edit.
        one_batch: run the branches as one batch, or one after the other where memory is short.
        begun: the same edit after an earlier interval, up to the first attacked one, to go on from.

    Returns:
        Both latents. After ``Interrupted`` from a callback in the protected part: the best so far, with the
        noise that was left taken out by the x0 estimate.
    """
    trajectory.check_model(field.layout)
    first = trajectory.intervals - attacked_intervals
    if attacked_intervals < 1 or first < 0:
        raise FluxGuardError(
            f"Expected 1 to {trajectory.intervals} attacked intervals, got {attacked_intervals}."
        )
    within = window or _everywhere(trajectory.terminal)

    def step(state: State) -> Moved:
        return advance(field, trajectory, state, controls, solver)

    if begun is not None and begun.interval > first + 1:
        raise FluxGuardError(
            f"Expected an edit begun up to interval {first + 1}, got {begun.interval}.",
            "Begin anew.",
        )
    clean = begun or step(State(trajectory.terminal))
    _report(progress, clean, trajectory.intervals)
    while clean.interval <= first:
        clean = step(clean)
        _report(progress, clean, trajectory.intervals)
    adversarial = clean
    log: list[Step] = []
    while True:
        refined = refine(_branches(trajectory, clean, adversarial, within, region))
        log += refined.descent.log
        outside = adversarial.latent if region is None else clean.latent
        latent = within.paste(outside, refined.latent)
        adversarial = Moved(latent, adversarial.interval, velocity=adversarial.velocity)
        if refined.descent.interrupted is not None:
            return _cut_short(trajectory, clean, adversarial, log)
        if clean.interval == trajectory.intervals:
            return Protection(clean.latent, adversarial.latent, tuple(log))
        both = _together if one_batch else _in_turn
        clean, adversarial = both(step, clean, adversarial)
        try:
            _report(progress, clean, trajectory.intervals)
        except Interrupted:
            return _cut_short(trajectory, clean, adversarial, log)


@torch.no_grad()
def protect_latent(
    latent: Tensor, refine: Refine, *, rounds: int = 5, window: Window | None = None
) -> Protection:
    """Protect a finished latent [B, C, H, W] without any flow: the same refiner at σ = 0."""
    within = window or _everywhere(latent)
    adversarial, still = latent, within.crop(torch.zeros_like(latent))
    log: list[Step] = []
    for i in range(rounds):
        branches = Branches(
            within.crop(latent), within.crop(adversarial), still, still, sigma=0.0, interval=i
        )
        refined = refine(branches)
        log += refined.descent.log
        adversarial = within.paste(adversarial, refined.latent)
        if refined.descent.interrupted is not None:
            return Protection(latent, adversarial, tuple(log), interrupted=True)
    return Protection(latent, adversarial, tuple(log))


def _branches(
    trajectory: Trajectory,
    clean: Moved,
    adversarial: Moved,
    window: Window,
    region: Tensor | None,
) -> Branches:
    start = window.crop(adversarial.latent)
    if region is not None:
        # The network couples all tokens, so the branches drift apart outside the region too.
        start = torch.where(region.to(start) > 0, start, window.crop(clean.latent))
    return Branches(
        clean=window.crop(clean.latent),
        adversarial=start,
        clean_velocity=window.crop(clean.velocity),
        adversarial_velocity=window.crop(adversarial.velocity),
        sigma=float(trajectory.sigmas[clean.interval]),
        interval=clean.interval - 1,
    )


def _together(
    step: Callable[[State], Moved], clean: Moved, adversarial: Moved
) -> tuple[Moved, Moved]:
    both = step(
        Moved(
            torch.cat([clean.latent, adversarial.latent]),
            clean.interval,
            velocity=torch.cat([clean.velocity, adversarial.velocity]),
        )
    )
    latents, velocities = both.latent.chunk(2), both.velocity.chunk(2)
    return (
        Moved(latents[0], both.interval, velocity=velocities[0]),
        Moved(latents[1], both.interval, velocity=velocities[1]),
    )


def _in_turn(
    step: Callable[[State], Moved], clean: Moved, adversarial: Moved
) -> tuple[Moved, Moved]:
    return step(clean), step(adversarial)


def _cut_short(
    trajectory: Trajectory, clean: Moved, adversarial: Moved, log: Sequence[Step]
) -> Protection:
    """Both branches as they are now, with the noise that is left taken out."""
    sigma = float(trajectory.sigmas[clean.interval])
    edited, protected = (state.latent - sigma * state.velocity for state in (clean, adversarial))
    return Protection(edited, protected, tuple(log), interrupted=True)


def _everywhere(latent: Tensor) -> Window:
    return Window(0, latent.shape[-2], 0, latent.shape[-1])


def _report(progress: Progress | None, state: State, total: int) -> None:
    if progress is not None:
        progress(state.interval, total, state.latent)
