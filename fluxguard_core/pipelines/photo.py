"""The main job: a portrait and words in, an edited portrait and its protected twin out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ..backends.flux import FluxStack
from ..backends.geometry import LatentGeometry
from ..errors import FluxGuardError
from ..faces.face import Face, FaceFinder
from ..flow import (
    Block,
    Counted,
    EditControl,
    Storage,
    Trajectory,
    ValueInjection,
    VelocityField,
    VelocityFusion,
    flux_schedule,
    invert,
)
from ..flow.controls import paper_injection, paper_window
from ..flow.solvers import SOLVERS
from ..pictures.geometry import crop_to
from ..protect.assemble import assemble_refiner, touched_pixels
from ..protect.engine import Step
from ..protect.perceptual import PerceptualDistance
from ..protect.presets import Preset
from ..protect.refiner import Refiner
from ..protect.region import Window
from ..protect.run import edit_and_protect
from ..recognition.ensemble import Ensemble
from ..recognition.identity import Identity
from ..regions import FaceParser, coverage, grow, soft_mask, text_mask

Phase = Literal["inversion", "generation", "protection"]
# Called with the phase, how much of it is done, how much there is, and the picture or None. May raise
# ``Interrupted``.
Observer = Callable[[Phase, int, int, Tensor | None], None]


@dataclass(frozen=True, eq=False)
class Models:
    """Everything a protection needs.

    Args:
        describe: a picture's caption, for models that have someone who can tell; else the user writes it.
        complete: (source prompt, prompt) -> the full target prompt; where prompts need not be full.
        guidance: the model's own best guidance for edits, which only the paper preset overrules; None takes
            the preset's.
    """

    name: str
    stack: FluxStack
    ensemble: Ensemble
    find_faces: FaceFinder
    perceptual: PerceptualDistance
    parse_face: FaceParser | None = None
    describe: Callable[[Tensor], str] | None = None
    complete: Callable[[str, str], str] | None = None
    size: int = 512
    storage: Storage = field(default_factory=Storage)
    guidance: float | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """One picture's order.

    Args:
        picture: [B, 3, H, W] in [0, 1] at working size.
        mask: [1 or B, 1, H, W] in [0, 1]; 1 may be edited.
        face: found once, on the source.
        others: further faces of the picture to protect as well, for one picture only.
    """

    picture: Tensor
    source_prompt: str
    prompt: str
    mask: Tensor
    face: Face
    identity: Identity
    preset: Preset
    others: tuple[Face, ...] = ()


@dataclass(frozen=True, eq=False)
class Outcome:
    """Pictures [B, 3, H, W] of one size, and what it took.

    ``reconstruction`` is the source through the autoencoder, the yardstick for what an edit changed.
    """

    edited: Tensor
    protected: Tensor
    reconstruction: Tensor
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
    observer: Observer | None = None,
) -> Outcome:
    """Invert, edit and protect one picture (Flux-Guard, whole method).

    Args:
        trajectory: an earlier inversion of the same picture, which saves making it again.
        observer: progress; raising ``Interrupted`` in the protection keeps the best so far.
    """
    stack, preset, size = models.stack, job.preset, (job.picture.shape[-2], job.picture.shape[-1])
    source = job.picture.to(stack.device)
    latent = stack.encode(source)
    counts: dict[str, int] = {}
    if trajectory is None:
        trajectory, counts["inversion"] = _inverted(
            models, latent, job.source_prompt, preset, coverage(job.mask), observer
        )
    trajectory.check_latent(latent.shape)
    latent_mask = soft_mask(job.mask, stack.geometry.pixels, size=_grid(trajectory)).to(
        stack.device
    )
    controls = edit_controls(trajectory, latent_mask, preset)
    refiner, window = make_refiner(models, job, trajectory, observer)
    target = Counted(stack.field(job.prompt, edit_guidance(models, preset)))

    def generated(done: int, total: int, latent: Tensor) -> None:
        _observe(observer, "generation", done, total, None)

    result = edit_and_protect(
        target,
        trajectory,
        controls,
        refiner,
        attacked_intervals=preset.attacked,
        window=window,
        region=refiner.region,
        progress=generated,
    )
    counts["generation"] = target.evaluations
    with torch.no_grad():
        edited, protected, plain = (
            stack.decode(latent, size)
            for latent in (result.edited, result.protected, trajectory.source)
        )
    return Outcome(
        edited=edited,
        protected=protected,
        reconstruction=plain,
        region=perturbed_pixels(refiner, window, edited, stack.geometry),
        log=result.log,
        evaluations=counts,
        trajectory=trajectory,
        interrupted=result.interrupted,
    )


def edit_guidance(models: Models, preset: Preset) -> float:
    """Guidance of the generation."""
    own = None if preset.name == "paper" else models.guidance
    return preset.guidance if own is None else own


def mask_from_words(models: Models, picture: Tensor, source_prompt: str, prompt: str) -> Tensor:
    """Edit mask [B, 1, H, W] of what ``prompt`` says differently from ``source_prompt``.

    Grown by half a latent cell, so that the cells on its rim are edited rather than half kept.
    """
    if models.parse_face is None:
        raise FluxGuardError(
            "This model has no face parser to turn words into a mask. Give the edit's area with --mask PNG "
            "(white may change, same size as the photo)."
        )
    found = text_mask(picture, prompt, models.parse_face, source=source_prompt)
    return grow(found, models.stack.geometry.pixels / 2)


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
    models: Models, job: Job, trajectory: Trajectory, observer: Observer | None = None
) -> tuple[Refiner, Window | None]:
    """The preset's refiner, and the part of the latent it works on."""
    preset, stack = job.preset, models.stack
    landmarks: Tensor | None = None
    if preset.aligned or preset.face_only:
        points = [required_landmarks(face) for face in (job.face, *job.others)]
        landmarks = torch.stack(points).to(stack.device)
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
        perceptual=models.perceptual,
        find_faces=models.find_faces,
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


def required_landmarks(face: Face) -> Tensor:
    """The five points [5, 2] of a face, or an error that says how to get them."""
    if face.landmarks is None:
        raise FluxGuardError(
            "The face came as a box without landmarks, and alignment needs five points. Use a detector with "
            "landmarks, or the paper preset, which needs none."
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
        flux_schedule(preset.steps, tokens),
        solver=preset.solver,
        value_intervals=keep,
        blocks=blocks,
        tokens=preset.tokens,
        value_storage=models.storage,
        progress=lambda done, total, _: _observe(observer, "inversion", done, total, None),
    )
    return trajectory, source.evaluations


def values_to_keep(
    preset: Preset, covered: float, source: VelocityField
) -> tuple[int, tuple[Block, ...]]:
    """Intervals and blocks whose attention values the preset will inject."""
    published = paper_injection(preset.steps, covered)
    return (published if preset.injected is None else preset.injected), source.layout.structure


def planned_evaluations(preset: Preset) -> dict[str, int]:
    """Network evaluations a picture, by phase."""
    rule = SOLVERS[preset.solver]
    shared = preset.steps - preset.attacked + 1
    return {
        "inversion": rule.evaluations(preset.steps),
        "generation": rule.evaluations(shared) + 2 * rule.fresh * (preset.steps - shared),
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
