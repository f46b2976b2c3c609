"""The whole method: one shared generation, then a clean and a protected branch side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FluxGuardError, Interrupted
from ..flow.controls import EditControl
from ..flow.field import VelocityField
from ..flow.run import Progress, State, advance
from ..flow.solvers import SolverName
from ..flow.trajectory import Trajectory
from .refiner import Branches, Refiner, RefinerStep
from .region import Window


@dataclass(frozen=True, eq=False)
class Protection:
    """Two latents in model space, the edit and its protected twin, and how the second came about."""

    edited: Tensor
    protected: Tensor
    log: tuple[RefinerStep, ...]
    interrupted: bool = False


@torch.no_grad()
def edit_and_protect(
    field: VelocityField,
    trajectory: Trajectory,
    controls: Sequence[EditControl],
    refiner: Refiner,
    *,
    attacked_intervals: int = 5,
    solver: SolverName | None = None,
    window: Window | None = None,
    one_batch: bool = True,
    progress: Progress | None = None,
) -> Protection:
    """Generate an edit and protect it (Flux-Guard, whole method).

    Both branches are one up to and including the first attacked interval's ODE step, so that part is
    computed once. After it they run as one batch.

    Args:
        field: velocity at the target prompt and guidance.
        attacked_intervals: the refiner is called after each of the last so many intervals (paper: 5).
        window: part of the latent that the refiner sees and changes; None means all of it.
        one_batch: run the branches as one batch, or one after the other where memory is short.

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
    state = State(trajectory.terminal)
    while state.interval <= first:
        state = advance(field, trajectory, state, controls, solver)
        _report(progress, state, trajectory.intervals)
    clean = adversarial = state
    try:
        while True:
            latent = _refine(refiner, trajectory, clean, adversarial, window)
            adversarial = State(latent, adversarial.interval, adversarial.velocity)
            if clean.interval == trajectory.intervals:
                return Protection(clean.latent, adversarial.latent, tuple(refiner.log))
            step = _together if one_batch else _in_turn
            clean, adversarial = step(
                lambda state: advance(field, trajectory, state, controls, solver),
                clean,
                adversarial,
            )
            _report(progress, clean, trajectory.intervals)
    except Interrupted:
        sigma = float(trajectory.sigmas[clean.interval])
        best = _interrupted_latent(refiner, adversarial, window)
        return Protection(
            edited=_x0(clean, clean.latent, sigma),
            protected=_x0(adversarial, best, sigma),
            log=tuple(refiner.log),
            interrupted=True,
        )


@torch.no_grad()
def protect_latent(
    latent: Tensor, refiner: Refiner, *, rounds: int = 5, window: Window | None = None
) -> Protection:
    """Protect a finished latent [B, C, H, W] without any flow: the same refiner at σ = 0."""
    adversarial = latent
    still = torch.zeros_like(latent)
    crop = window.crop if window else _whole
    paste = window.paste if window else _replaced
    try:
        for i in range(rounds):
            branches = Branches(
                crop(latent), crop(adversarial), crop(still), crop(still), sigma=0.0, interval=i
            )
            adversarial = paste(adversarial, refiner(branches))
    except Interrupted:
        if refiner.interrupted_result is not None:
            adversarial = paste(adversarial, refiner.interrupted_result)
        return Protection(latent, adversarial, tuple(refiner.log), interrupted=True)
    return Protection(latent, adversarial, tuple(refiner.log))


def _refine(
    refiner: Refiner,
    trajectory: Trajectory,
    clean: State,
    adversarial: State,
    window: Window | None,
) -> Tensor:
    if clean.velocity is None or adversarial.velocity is None:
        raise AssertionError("a branch reaches the refiner only after an ODE step")
    crop = window.crop if window else _whole
    start = crop(adversarial.latent)
    if refiner.region is not None:
        # The network couples all tokens, so the branches drift apart outside the region too.
        start = torch.where(refiner.region.to(start) > 0, start, crop(clean.latent))
    refined = refiner(
        Branches(
            clean=crop(clean.latent),
            adversarial=start,
            clean_velocity=crop(clean.velocity),
            adversarial_velocity=crop(adversarial.velocity),
            sigma=float(trajectory.sigmas[clean.interval]),
            interval=clean.interval - 1,
        )
    )
    outside = clean.latent if refiner.region is not None else adversarial.latent
    return window.paste(outside, refined) if window else refined


def _together(
    step: Callable[[State], State], clean: State, adversarial: State
) -> tuple[State, State]:
    if clean.velocity is None or adversarial.velocity is None:
        raise AssertionError("branches are joined only after an ODE step")
    both = step(
        State(
            torch.cat([clean.latent, adversarial.latent]),
            clean.interval,
            torch.cat([clean.velocity, adversarial.velocity]),
        )
    )
    if both.velocity is None:
        raise AssertionError("a step always leaves a velocity")
    latents, velocities = both.latent.chunk(2), both.velocity.chunk(2)
    return (
        State(latents[0], both.interval, velocities[0]),
        State(latents[1], both.interval, velocities[1]),
    )


def _in_turn(
    step: Callable[[State], State], clean: State, adversarial: State
) -> tuple[State, State]:
    return step(clean), step(adversarial)


def _interrupted_latent(refiner: Refiner, state: State, window: Window | None) -> Tensor:
    if refiner.interrupted_result is None:
        return state.latent
    return (window.paste if window else _replaced)(state.latent, refiner.interrupted_result)


def _x0(state: State, latent: Tensor, sigma: float) -> Tensor:
    return latent if state.velocity is None else latent - sigma * state.velocity


def _whole(latent: Tensor) -> Tensor:
    return latent


def _replaced(latent: Tensor, patch: Tensor) -> Tensor:
    del latent
    return patch


def _report(progress: Progress | None, state: State, total: int) -> None:
    if progress is not None:
        progress(state.interval, total, state.latent)
