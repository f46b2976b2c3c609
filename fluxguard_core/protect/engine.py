"""One engine for every protection: descend a weighted sum of terms in some space of pictures.

What varies is a ``Space``: how a variable becomes a picture, and what it may be. What is wanted is a ``Term``: a
loss with a verdict. How to step is an ``Optimiser``. The loop below knows none of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..errors import FluxGuardError, Interrupted
from .gradients import gradients
from .views import View

_UNMET = 1e3  # any iterate that reaches the goal ranks before any that does not


class Space(Protocol):
    """What is varied. The variable's first dimension is the batch's B pictures."""

    def start(self) -> Tensor:
        """The variable to begin with."""

    def picture(self, variable: Tensor) -> Tensor:
        """The picture [B, 3, H, W] in [0, 1] that a variable stands for; differentiable."""

    def project(self, variable: Tensor) -> Tensor:
        """The nearest allowed variable; called without gradient after each step."""

    def settle(self, variable: Tensor) -> Tensor:
        """The variable as it will be kept, where storing rounds; itself elsewhere."""


@dataclass(frozen=True, eq=False)
class Draw:
    """What one evaluation looks at: views of the picture, and randomness for terms that draw further things."""

    views: Sequence[View]
    generator: torch.Generator


@dataclass(frozen=True, eq=False)
class Reading:
    """What a term says of a picture.

    Args:
        loss: [B], with gradient.
        met: whether each picture [B] has reached the term's goal; None for a cost that has none.
        figures: further numbers by name, for the log; of any shape, for the log has their mean.
    """

    loss: Tensor
    met: Tensor | None = None
    figures: Mapping[str, Tensor] = field(default_factory=dict)


class Term(Protocol):
    """A loss with a name. Pictures [B, 3, H, W] in [0, 1] -> a reading."""

    @property
    def name(self) -> str: ...

    def __call__(self, picture: Tensor, draw: Draw) -> Reading: ...


class Optimiser(Protocol):
    """A rule that steps; keeps its moments until ``reset``."""

    def step(self, variable: Tensor, gradient: Tensor) -> Tensor: ...

    def reset(self) -> None: ...


# A term's weight: fixed, or from all readings, by picture [B] and without gradient.
Weight = float | Callable[[Mapping[str, Reading]], Tensor]


@dataclass(frozen=True)
class DescentSettings:
    """When a descent goes on, stops, and what it returns.

    Args:
        steps: of the optimiser.
        keep_best: return each picture's best iterate instead of the last one. The best is the cheapest of
            those that met every goal, by the terms without one; where none did, the one with the least loss.
        patience: stop after so many iterates running that met every goal; None never stops early.
        draws: evaluations whose gradients are averaged before a step (views, prompts, noises).
        dead: give up after so many steps running without any gradient.
    """

    steps: int = 10
    keep_best: bool = False
    patience: int | None = None
    draws: int = 1
    dead: int = 3

    @property
    def iterates(self) -> int:
        """Evaluations of a descent that does not stop early; the last iterate is looked at only to be ranked."""
        return self.steps + self.keep_best


@dataclass(frozen=True)
class Step:
    """One entry of the log: means over the batch.

    Args:
        interval: of the flow, or round, that the step belongs to; 0 elsewhere.
        losses, weights: by term.
        figures: by term, then by name.
        met: every picture reached every goal.
    """

    step: int
    losses: Mapping[str, float]
    weights: Mapping[str, float]
    figures: Mapping[str, Mapping[str, float]]
    met: bool
    seconds: float
    interval: int = 0


# Exceptions of whoever runs the networks that mean the user's wish to stop.
Stops = tuple[type[BaseException], ...]
# Called with each log entry and the picture it speaks of; may raise ``Interrupted``.
OnStep = Callable[[Step, Tensor], None]


@dataclass(frozen=True, eq=False)
class Descent:
    """Where a descent ended.

    Args:
        variable: the result in the space's own terms; the best so far where the user interrupted.
        settled: what was said of the result after it was rounded; None where the space rounds nothing.
    """

    variable: Tensor
    log: tuple[Step, ...]
    interrupted: Interrupted | None = None
    settled: Step | None = None


def descend(
    space: Space,
    terms: Sequence[Term],
    optimiser: Optimiser,
    settings: DescentSettings,
    *,
    draw: Callable[[], Draw],
    weights: Mapping[str, Weight] | None = None,
    on_step: OnStep | None = None,
    stops: Stops = (),
) -> Descent:
    """Minimise the weighted sum of ``terms`` over the pictures of ``space``.

    Args:
        draw: what the next evaluation looks at.
        weights: by term name; 1 where a term has none.
        on_step: raising ``Interrupted`` ends the descent with its best so far.
        stops: exceptions that mean the same in the middle of an evaluation, whose own result is then lost.

    Raises:
        FluxGuardError: a loss or gradient is not finite, or stays zero before the goal is met.
    """
    weights = weights or {}
    with gradients():
        variable = space.project(space.start().detach().clone())
        best, best_cost = variable, torch.full((len(variable),), torch.inf, device=variable.device)
        log: list[Step] = []
        met_in_a_row = dead_in_a_row = 0
        interrupted: Interrupted | None = None
        for number in range(settings.iterates):
            started = time.perf_counter()
            last = number == settings.steps
            try:
                seen = _evaluate(
                    space, variable, terms, weights, settings.draws, draw, gradient=not last
                )
            except stops as stop:
                interrupted = Interrupted(str(stop) or "Stopped by the user.")
                break
            if settings.keep_best:
                cost = _cost(seen.readings).to(best_cost)
                better = cost < best_cost
                best = torch.where(_over(better, best), variable, best)
                best_cost = torch.minimum(cost, best_cost)
            done = _all_met(seen.readings)
            met_in_a_row = met_in_a_row + 1 if done else 0
            last = last or (settings.patience is not None and met_in_a_row >= settings.patience)
            if not last:
                dead_in_a_row = dead_in_a_row + 1 if _dead(seen) and not done else 0
                if dead_in_a_row >= settings.dead:
                    raise _no_gradient(dead_in_a_row, terms)
                variable = space.project(optimiser.step(variable, seen.gradient)).detach()
            entry = _entry(number, seen, done, time.perf_counter() - started)
            log.append(entry)
            interrupted = _tell(on_step, entry, seen.picture)
            if last or interrupted is not None:
                break
        result = best if settings.keep_best else variable
        kept = space.settle(result)
        settled = None
        if kept is not result:
            seen = _evaluate(space, kept, terms, weights, 1, draw, gradient=False)
            settled = _entry(len(log), seen, _all_met(seen.readings), 0.0)
    return Descent(kept.detach(), tuple(log), interrupted, settled)


@dataclass(frozen=True, eq=False)
class _Seen:
    """One evaluation: readings averaged over its draws, and the gradient of the weighted loss."""

    picture: Tensor
    readings: Mapping[str, Reading]
    weights: Mapping[str, Tensor]
    gradient: Tensor


def _evaluate(
    space: Space,
    variable: Tensor,
    terms: Sequence[Term],
    weights: Mapping[str, Weight],
    draws: int,
    draw: Callable[[], Draw],
    *,
    gradient: bool,
) -> _Seen:
    """Draw after draw, so that the memory is one draw's."""
    total = torch.zeros_like(variable)
    every: list[Mapping[str, Reading]] = []
    for _ in range(draws):
        point = variable.detach().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            picture = space.picture(point)
            look = draw()
            readings = {term.name: term(picture, look) for term in terms}
            scales = {name: _weight(weights.get(name, 1.0), readings, name) for name in readings}
            loss = sum_of(scales[name] * reading.loss for name, reading in readings.items()).sum()
        if not loss.isfinite():
            raise _not_finite("loss")
        if gradient:
            (slope,) = torch.autograd.grad(loss, point)
            if not slope.isfinite().all():
                raise _not_finite("gradient")
            total = total + slope / draws
        every.append({name: _detached(reading) for name, reading in readings.items()})
    return _Seen(picture.detach(), _averaged(every), scales, total)


def sum_of(losses: Iterable[Tensor]) -> Tensor:
    """The losses [B] of several terms, added in their order."""
    first, *rest = losses
    for loss in rest:
        first = first + loss
    return first


def _weight(weight: Weight, readings: Mapping[str, Reading], name: str) -> Tensor:
    loss = readings[name].loss
    return weight(readings).detach() if callable(weight) else torch.full_like(loss, weight)


def _detached(reading: Reading) -> Reading:
    figures = {name: figure.detach() for name, figure in reading.figures.items()}
    return Reading(reading.loss.detach(), reading.met, figures)


def _averaged(every: Sequence[Mapping[str, Reading]]) -> Mapping[str, Reading]:
    """Readings over draws: mean losses and figures; a goal is met where it is met in every draw."""
    if len(every) == 1:
        return every[0]
    averaged = {}
    for name, first in every[0].items():
        readings = [readings[name] for readings in every]
        met = [reading.met for reading in readings if reading.met is not None]
        figures = {
            key: torch.stack([r.figures[key] for r in readings]).mean(0) for key in first.figures
        }
        loss = torch.stack([reading.loss for reading in readings]).mean(0)
        averaged[name] = Reading(loss, torch.stack(met).all(0) if met else None, figures)
    return averaged


def _goals(readings: Mapping[str, Reading]) -> list[tuple[Tensor, Tensor]]:
    """Loss [B] and verdict [B] of the terms that have a goal."""
    return [(r.loss, r.met) for r in readings.values() if r.met is not None]


def _cost(readings: Mapping[str, Reading]) -> Tensor:
    """How good each picture [B] is: past every goal what it costs, before them what is missing."""
    goals = _goals(readings)
    if not goals:
        return sum_of(reading.loss for reading in readings.values())
    missing = sum_of(loss for loss, _ in goals)
    costs = [reading.loss for reading in readings.values() if reading.met is None]
    spent = sum_of(costs) if costs else torch.zeros_like(missing)
    return torch.where(torch.stack([met for _, met in goals]).all(0), spent, _UNMET + missing)


def _all_met(readings: Mapping[str, Reading]) -> bool:
    goals = _goals(readings)
    return bool(goals) and all(bool(met.all()) for _, met in goals)


def _dead(seen: _Seen) -> bool:
    """No picture that still has something to reach feels any pull."""
    pulled = seen.gradient.flatten(1).abs().amax(1) > 0
    unmet = torch.ones_like(pulled)
    for _, met in _goals(seen.readings):
        unmet = unmet & ~met.to(unmet.device)
    return not bool(pulled[unmet].any()) if bool(unmet.any()) else not bool(pulled.any())


def _over(chosen: Tensor, like: Tensor) -> Tensor:
    """[B] as a mask that broadcasts over a variable [B, ...]."""
    return chosen.to(like.device).reshape(-1, *[1] * (like.ndim - 1))


def _entry(number: int, seen: _Seen, met: bool, seconds: float) -> Step:
    return Step(
        step=number,
        losses={name: float(reading.loss.mean()) for name, reading in seen.readings.items()},
        weights={name: float(weight.mean()) for name, weight in seen.weights.items()},
        figures={
            name: {key: float(figure.float().mean()) for key, figure in reading.figures.items()}
            for name, reading in seen.readings.items()
        },
        met=met,
        seconds=seconds,
    )


def _tell(on_step: OnStep | None, entry: Step, picture: Tensor) -> Interrupted | None:
    try:
        if on_step is not None:
            on_step(entry, picture)
    except Interrupted as interruption:
        return interruption
    return None


def _not_finite(what: str) -> FluxGuardError:
    return FluxGuardError(
        f"The protection's {what} became NaN or infinite.",
        "Decode in float32, and check the recogniser files with ‹run models verify›.",
    )


def _no_gradient(steps: int, terms: Sequence[Term]) -> FluxGuardError:
    return FluxGuardError(
        f"The gradient of {' and '.join(term.name for term in terms)} has been zero for {steps} steps, so nothing "
        "can be protected this way: the region is empty, a network hides its gradient, or the start is a point of "
        "rest.",
        "Start with some jitter, check the mask, and use a network in a floating-point format.",
    )
