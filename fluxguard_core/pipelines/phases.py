"""What the phases of a loop take: evaluations, seconds and peak memory; the released loop beside ours on one network."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..evaluate.memory import new_peak, peak_memory
from ..flow import Counted, EditControl, Moved, State, Trajectory, VelocityField, advance
from ..protect.presets import PRESETS, Preset
from ..protect.refiner import Branches, Refined
from ..protect.run import Refine, edit_and_protect
from ..regions import soft_mask
from .models import Models
from .portrait import Job, edit_controls, invert_portrait, make_refiner, planned_evaluations

Loop = Literal["released", "paper", "default", "fast"]
Phase = Literal["inversion", "generation", "protection"]
PHASES: tuple[Phase, ...] = ("inversion", "generation", "protection")


@dataclass
class Spent:
    """Of one phase: seconds (on a processor its own, not the clock's), and the most bytes above what was held when the loop began."""

    seconds: float = 0.0
    peak_bytes: int = 0
    evaluations: int = 0


@dataclass(eq=False)
class Meter:
    """Sums up what is spent in phases that take turns; a phase within another one interrupts it."""

    device: torch.device
    spent: dict[Phase, Spent] = field(default_factory=lambda: {name: Spent() for name in PHASES})

    def __post_init__(self) -> None:
        self._base = self._clear()
        self._open: list[tuple[Phase, float]] = []

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Count what happens within to a phase."""
        self._close()
        self._open.append((name, self._now()))
        self._clear()
        try:
            yield
        finally:
            self._close()
            self._open.pop()
            if self._open:
                self._open[-1] = (self._open[-1][0], self._now())
                self._clear()

    def _close(self) -> None:
        if self._open:
            name, started = self._open[-1]
            now = self._now()
            spent = self.spent[name]
            spent.seconds += now - started
            spent.peak_bytes = max(spent.peak_bytes, self._peak() - self._base)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        # The processor's own time: what else runs on the machine does not count.
        return time.process_time()

    def _clear(self) -> int:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return torch.cuda.memory_allocated(self.device)
        return new_peak()

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return peak_memory()


def unshared(
    field: VelocityField,
    trajectory: Trajectory,
    controls: Sequence[EditControl],
    refine: Refine,
    attacked: int,
) -> tuple[Tensor, Tensor]:
    """The released loop: a clean and an adversarial branch, both from noise to picture."""
    clean = adversarial = State(trajectory.terminal)
    first = trajectory.intervals - attacked
    while clean.interval < trajectory.intervals:
        clean = advance(field, trajectory, clean, controls)
        adversarial = advance(field, trajectory, adversarial, controls)
        if clean.interval > first:
            branches = Branches(
                clean.latent,
                adversarial.latent,
                clean.velocity,
                adversarial.velocity,
                float(trajectory.sigmas[clean.interval]),
                clean.interval - 1,
            )
            latent = refine(branches).latent
            adversarial = Moved(latent, adversarial.interval, velocity=adversarial.velocity)
    return clean.latent, adversarial.latent


def run_loop(models: Models, job: Job, loop: Loop, *, one_batch: bool = True) -> dict[Phase, Spent]:
    """Run a job with a loop and say what each phase took; ``job.preset`` is the loop's own.

    Args:
        one_batch: branches and views as one batch, or one after the other.
    """
    meter = Meter(models.stack.device)
    with meter.phase("inversion"):
        trajectory = invert_portrait(models, job.picture, job.source_prompt, job.preset)
    meter.spent["inversion"].evaluations = planned_evaluations(job.preset)["inversion"]
    refiner, window = make_refiner(models, job, trajectory, one_batch=one_batch)
    target = Counted(models.stack.field(job.prompt, models.guidance_of(job.preset)))
    grid = (trajectory.source.shape[-2], trajectory.source.shape[-1])
    mask = soft_mask(job.mask, models.stack.geometry.pixels, size=grid).to(models.stack.device)
    controls = edit_controls(trajectory, mask, job.preset)

    def refine(branches: Branches) -> Refined:
        with meter.phase("protection"):
            return refiner(branches)

    with meter.phase("generation"), torch.no_grad():
        if loop == "released":
            unshared(target, trajectory, controls, refine, job.preset.attacked)
        else:
            edit_and_protect(
                target,
                trajectory,
                controls,
                refine,
                attacked_intervals=job.preset.attacked,
                window=window,
                region=refiner.region,
                one_batch=one_batch,
            )
    meter.spent["generation"].evaluations = target.evaluations
    return meter.spent


def preset_of(loop: Loop) -> Preset:
    """The preset that a loop runs."""
    return PRESETS["paper" if loop == "released" else loop]
