"""A portrait at working size: invert, edit and protect it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..backends.geometry import LatentGeometry
from ..errors import FluxGuardError
from ..faces.face import Face, anew
from ..flow import (
    Block,
    Counted,
    EditControl,
    Moved,
    Trajectory,
    ValueInjection,
    VelocityField,
    VelocityFusion,
    flux_schedule,
    invert,
)
from ..flow.controls import paper_injection, paper_window
from ..flow.solvers import SOLVERS
from ..pictures.detail import with_detail
from ..pictures.geometry import crop_to
from ..protect.assemble import assemble_refiner, touched_pixels
from ..protect.engine import Step
from ..protect.held import held_picture
from ..protect.presets import Preset
from ..protect.refiner import Refiner
from ..protect.region import Window
from ..protect.run import edit_and_protect
from ..protect.visibility import VisibilityBudget
from ..recognition.identity import Identity
from ..regions import Found, coverage, soft_mask
from .models import Models

Phase = Literal["inversion", "generation", "protection"]
# Called with the phase, how much of it is done, how much there is, and the picture or None. May raise
# ``Interrupted``.
Observer = Callable[[Phase, int, int, Tensor | None], None]


@dataclass(frozen=True, eq=False)
class Job:
    """One picture's order.

    Args:
        picture: [B, 3, H, W] in [0, 1] at working size.
        mask: [1 or B, 1, H, W] in [0, 1]; 1 may be edited.
        face: found once, on the source.
        budget: what may be seen of the protection; None leaves it free.
        others: further faces of the picture to protect as well, for one picture only.
        found: how the mask came about, where words made it.
    """

    picture: Tensor
    source_prompt: str
    prompt: str
    mask: Tensor
    face: Face
    identity: Identity
    preset: Preset
    others: tuple[Face, ...] = ()
    budget: VisibilityBudget | None = None
    found: Found | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """Pictures [B, 3, H, W] of one size, and what it took.

    Args:
        region: where the protection may have changed pixels, [1, 1, H, W] of 0 and 1.
        evaluations: of the network, by phase.
        interrupted: the user stopped it; the pictures are the best so far.
    """

    edited: Tensor
    protected: Tensor
    region: Tensor
    log: tuple[Step, ...]
    evaluations: dict[str, int]
    trajectory: Trajectory
    interrupted: bool


def protect_portrait(
    models: Models,
    job: Job,
    *,
    trajectory: Trajectory | None = None,
    begun: Moved | None = None,
    observer: Observer | None = None,
) -> Outcome:
    """Invert, edit and protect one picture (Flux-Guard, whole method).

    Args:
        trajectory: an earlier inversion of the same picture, which saves making it again.
        begun: the same edit under way, as ``edit_and_protect`` takes it.
        observer: progress; raising ``Interrupted`` in the protection keeps the best so far.
    """
    stack, preset = models.stack, job.preset
    latent = stack.encode(job.picture)
    counts: dict[str, int] = {}
    if trajectory is None:
        trajectory, counts["inversion"] = _inverted(
            models, latent, job.source_prompt, preset, coverage(job.mask), observer
        )
    trajectory.check_latent(latent.shape)
    refiner, window = make_refiner(models, job, trajectory, observer)
    target = Counted(stack.field(job.prompt, models.guidance_of(preset)))
    result = edit_and_protect(
        target,
        trajectory,
        edit_controls(trajectory, _latent_mask(models, job, trajectory), preset),
        refiner,
        attacked_intervals=preset.attacked,
        window=window,
        region=refiner.region,
        begun=begun,
        progress=lambda done, total, _: _observe(observer, "generation", done, total, None),
    )
    counts["generation"] = target.evaluations
    edited, protected = (
        decoded(models, job, trajectory, latent) for latent in (result.edited, result.protected)
    )
    if job.budget is not None:
        protected = held_picture(edited, protected, face_points(job), job.budget)
    return Outcome(
        edited=edited,
        protected=protected,
        region=perturbed_pixels(refiner, window, edited, stack.geometry),
        log=result.log,
        evaluations=counts,
        trajectory=trajectory,
        interrupted=result.interrupted,
    )


@torch.no_grad()
def decoded(models: Models, job: Job, trajectory: Trajectory, latent: Tensor) -> Tensor:
    """A latent as it will be shown: with the photo's own detail, unless the preset takes it as decoded."""
    size = (job.picture.shape[-2], job.picture.shape[-1])
    picture = models.stack.decode(latent, size)
    if not job.preset.detail:
        return picture
    return with_detail(picture, job.picture, models.stack.decode(trajectory.source, size))


def _latent_mask(models: Models, job: Job, trajectory: Trajectory) -> Tensor:
    stack = models.stack
    return soft_mask(job.mask, stack.geometry.pixels, size=_grid(trajectory)).to(stack.device)


def edit_controls(trajectory: Trajectory, mask: Tensor, preset: Preset) -> Sequence[EditControl]:
    """The preset's value injection and velocity fusion, for a mask at latent resolution."""
    intervals = preset.injected
    if intervals is None:
        intervals = paper_injection(trajectory.intervals, coverage(mask))
    window = None if preset.fusion == "all" else paper_window(trajectory.intervals)
    return (
        ValueInjection(trajectory, intervals, tokens=preset.tokens),
        VelocityFusion(trajectory, mask, window, preset.order),
    )


def make_refiner(
    models: Models,
    job: Job,
    trajectory: Trajectory,
    observer: Observer | None = None,
    *,
    one_batch: bool = True,
) -> tuple[Refiner, Window | None]:
    """The preset's refiner, and the part of the latent it works on."""
    preset, stack = job.preset, models.stack
    landmarks: Tensor | None = None
    if preset.aligned or preset.face_only:
        landmarks = face_points(job).to(stack.device)
    steps = preset.attacked * preset.refiner.descent.iterates

    told = itertools.count(1)

    def stepped(entry: Step, picture: Tensor) -> None:
        _observe(observer, "protection", next(told), steps, picture)

    refiner, window = assemble_refiner(
        preset,
        models.ensemble,
        job.identity,
        job.picture.to(stack.device),
        landmarks,
        _grid(trajectory),
        pixels=stack.geometry.pixels,
        decode=stack.decode,
        decode_tiny=stack.decode_tiny if preset.tiny else None,
        source=trajectory.source.to(stack.device),
        perceptual=models.perceptual,
        find_faces=anew(models.find_faces),
        budget=job.budget,
        one_batch=one_batch,
        on_step=stepped,
    )
    return refiner, window


def perturbed_pixels(
    refiner: Refiner, window: Window | None, like: Tensor, geometry: LatentGeometry
) -> Tensor:
    """Where the protection may have changed pixels [1, 1, H, W]: its region and the decoder's reach."""
    grid = geometry.grid(like.shape[-2], like.shape[-1])
    region = None if refiner.region is None else refiner.region.cpu()
    pixels = touched_pixels(region, window, grid, geometry.pixels)
    return crop_to(pixels, (like.shape[-2], like.shape[-1])).to(like.device)


def face_points(job: Job) -> Tensor:
    """The five points of every face to protect [faces, 5, 2]."""
    return torch.stack([required_landmarks(face) for face in (job.face, *job.others)])


def required_landmarks(face: Face) -> Tensor:
    """The five points [5, 2] of a face, or an error that says how to get them."""
    if face.landmarks is None:
        raise FluxGuardError(
            "The face came as a box without landmarks, and alignment needs five points.",
            "Use a detector with landmarks, or the paper preset, which needs none.",
        )
    return face.landmarks


def invert_portrait(
    models: Models, picture: Tensor, source_prompt: str, preset: Preset
) -> Trajectory:
    """An inversion of a picture [B, 3, H, W] that serves any number of prompts and masks."""
    latent = models.stack.encode(picture.to(models.stack.device))
    return _inverted(models, latent, source_prompt, preset, 1.0, None)[0]


def _inverted(
    models: Models,
    latent: Tensor,
    source_prompt: str,
    preset: Preset,
    covered: float,
    observer: Observer | None,
) -> tuple[Trajectory, int]:
    """The trajectory and its evaluations."""
    source = Counted(models.stack.field(source_prompt, preset.source_guidance))
    tokens = models.stack.geometry.tokens_of((latent.shape[2], latent.shape[3]))
    keep, blocks = values_to_keep(preset, covered, source)
    trajectory = invert(
        source,
        latent,
        flux_schedule(preset.intervals, tokens),
        solver=preset.solver,
        value_intervals=keep,
        blocks=blocks,
        tokens=preset.tokens,
        recipe=preset.recipe,
        value_storage=models.storage,
        progress=lambda done, total, _: _observe(observer, "inversion", done, total, None),
    )
    return trajectory, source.evaluations


def values_to_keep(
    preset: Preset, covered: float, source: VelocityField
) -> tuple[int, tuple[Block, ...]]:
    """Intervals and blocks whose attention values the preset will inject."""
    published = paper_injection(preset.intervals, covered)
    return (published if preset.injected is None else preset.injected), source.layout.structure


def planned_evaluations(preset: Preset) -> dict[str, int]:
    """Network evaluations a picture, by phase."""
    rule = SOLVERS[preset.solver]
    shared = preset.intervals - preset.attacked + 1
    return {
        "inversion": rule.evaluations(preset.intervals),
        "generation": rule.evaluations(shared) + 2 * rule.fresh * (preset.intervals - shared),
    }


def seeded(preset: Preset, seed: int) -> Preset:
    """The preset with another seed for everything that is drawn."""
    return replace(preset, refiner=replace(preset.refiner, seed=seed))


def _grid(trajectory: Trajectory) -> tuple[int, int]:
    return trajectory.source.shape[-2], trajectory.source.shape[-1]


def _observe(
    observer: Observer | None, phase: Phase, done: int, total: int, picture: Tensor | None
) -> None:
    if observer is not None:
        observer(phase, done, total, picture)
