"""The main job: find the face, crop, edit, protect, paste back, measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ..errors import FluxGuardError
from ..evaluate.report import Pictures, Report
from ..faces.face import Face, FaceChoice, around, choose
from ..flow import Trajectory
from ..pictures.face_crop import FaceCrop, Patch, crop_face
from ..pictures.files import luma
from ..protect.presets import PRESETS, Preset
from ..protect.visibility import VisibilityBudget
from ..recognition.identity import Identity, untargeted
from ..regions import EmptyMask, Found
from .masks import found_from_words
from .models import Models
from .portrait import Job, Observer, Outcome, protect_portrait, seeded
from .report import Finals, make_report

Admit = Callable[[Tensor, Sequence[Face]], None]


@dataclass(frozen=True, eq=False)
class Wishes:
    """What is to happen to a photo.

    Args:
        prompt: what the edited picture shows.
        source_prompt: what the photo shows; None where the model sees for itself.
        mask: what may change, [1, 1, H, W] in [0, 1] at the photo's size; None takes the prompt's words.
        face: which faces are protected.
        size: side in pixels of the square that is worked on; None takes the model's.
        grey: the photo is greyscale, and so are the results.
        seed: of everything that is drawn.
        budget: what may be seen of the protection; None leaves it free.
    """

    prompt: str
    source_prompt: str | None = None
    mask: Tensor | None = None
    identity: Identity = field(default_factory=untargeted)
    preset: Preset = PRESETS["default"]
    face: FaceChoice = "largest"
    size: int | None = None
    grey: bool = False
    seed: int = 0
    budget: VisibilityBudget | None = None


@dataclass(frozen=True, eq=False)
class Protected:
    """A photo's edit, its protected twin, and what is known about them.

    Args:
        photo: [1, 3, H, W] in [0, 1].
        finals: both results as they will be saved, kept as the pixels that changed.
        job, outcome: the work at working size.
        crop: the part of the photo that was worked on.
        report: None where nothing was to be measured, or the measuring failed.
        pictures: what illustrates the report.
        unmeasured: why there is no report.
    """

    photo: Tensor
    finals: Finals
    job: Job
    outcome: Outcome
    crop: FaceCrop
    seconds: Mapping[str, float]
    report: Report | None = None
    pictures: Pictures | None = None
    unmeasured: str = ""

    @property
    def interrupted(self) -> bool:
        """The user stopped it; the pictures are the best so far."""
        return self.outcome.interrupted

    @property
    def edited(self) -> Tensor:
        """The edit without protection, at the photo's size [1, 3, H, W]; not for publishing."""
        return self.finals.edited.on(self.photo)

    @property
    def protected(self) -> Tensor:
        """The picture to publish, at the photo's size [1, 3, H, W]."""
        return self.finals.protected.on(self.photo)

    @property
    def region(self) -> Tensor:
        """Where the protection may have changed pixels, [1, 1, H, W] of 0 and 1."""
        return self.crop.spread(self.outcome.region.cpu()).on(self.photo[:, :1] * 0)


@dataclass(frozen=True, eq=False)
class Measuring:
    """What to measure a result with, besides the model's recognisers.

    Args:
        second: another photo of the person [1, 3, H, W].
        settings: further settings for the report.
        notes: further sentences for it.
    """

    second: Tensor | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def protect_photo(
    models: Models,
    photo: Tensor,
    wishes: Wishes,
    *,
    measuring: Measuring | None = Measuring(),
    trajectory: Trajectory | None = None,
    observer: Observer | None = None,
    admit: Admit | None = None,
    ready: Callable[[Protected], None] | None = None,
) -> Protected:
    """Edit a photo and protect the people in it.

    Args:
        photo: [1, 3, H, W] in [0, 1], of any size.
        measuring: None leaves the report out.
        trajectory: an earlier inversion of the same photo, which saves making it again.
        observer: progress; raising ``Interrupted`` in the protection keeps the best so far.
        admit: called with the photo and all faces in it before any work; raises where it must not be worked on.
        ready: called with the finished pictures before anything is measured, to save them.

    Raises:
        FluxGuardError: no face, no mask, words that name nothing; never because of the measuring.
    """
    started = time.perf_counter()
    found = models.find_faces(photo[0])
    if admit is not None:
        admit(photo, found)
    faces = choose(found, wishes.face)
    crop = crop_around(photo, faces, wishes.size or models.size)
    job = job_of(models, wishes, faces, crop)
    prepared = time.perf_counter()
    outcome = protect_portrait(models, job, trajectory=trajectory, observer=observer)
    seconds = {"preparation": prepared - started, "run": time.perf_counter() - prepared}
    result = pasted(faces, crop, job, outcome, grey=wishes.grey, seconds=seconds)
    if ready is not None:
        ready(result)
    return result if measuring is None else measured(models, result, measuring)


def pasted(
    faces: Sequence[Face],
    crop: FaceCrop,
    job: Job,
    outcome: Outcome,
    *,
    grey: bool = False,
    seconds: Mapping[str, float] | None = None,
) -> Protected:
    """Both results back in the photo."""
    edited, protected = (_patch(crop, p, grey) for p in (outcome.edited, outcome.protected))
    finals = Finals(edited, protected, tuple(faces))
    return Protected(crop.photo, finals, job, outcome, crop, seconds or {})


def measured(models: Models, result: Protected, measuring: Measuring) -> Protected:
    """The result with its report, or with the reason why there is none: a finished picture is never lost to it."""
    settings = {"working_size": list(result.job.picture.shape[-2:]), **measuring.settings}
    try:
        report, pictures = make_report(
            models,
            result.photo,
            result.job,
            result.outcome,
            result.finals,
            seconds=result.seconds,
            settings=settings,
            second=measuring.second,
            notes=measuring.notes,
        )
    except Exception as error:  # whatever it is, the pictures are there
        told = str(error) if isinstance(error, FluxGuardError) else type(error).__name__
        return replace(result, unmeasured=told)
    return replace(result, report=report, pictures=pictures)


def crop_around(photo: Tensor, faces: list[Face], size: int) -> FaceCrop:
    """The square around all faces to protect; FluxGuardError where one does not hold them."""
    crop = crop_face(photo, around(faces), size)
    left, top, right, bottom = crop.box
    for x0, y0, x1, y1 in (face.box for face in faces[1:] and faces):
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        if not (left < x < right and top < y < bottom):
            raise FluxGuardError(
                f"The {len(faces)} faces are too far apart for one square of {right - left} pixels.",
                "Protect face 0 alone (‹give face›), then face 1 of the result, and so on.",
            )
    return crop


def job_of(models: Models, wishes: Wishes, faces: list[Face], crop: FaceCrop) -> Job:
    """The order at working size: words completed, mask found, faces moved into the crop."""
    source_prompt = wishes.source_prompt
    if source_prompt is None:
        if models.describe is None:
            raise FluxGuardError(
                "This model cannot see what the photo shows, and the inversion follows it.",
                "Say it with ‹give source_prompt›.",
            )
        source_prompt = models.describe(crop.working)
    prompt = wishes.prompt
    if models.complete is not None:
        prompt = models.complete(source_prompt, prompt)
        if prompt == source_prompt and wishes.mask is None:
            raise FluxGuardError(
                f"The photo already shows '{wishes.prompt}' ({source_prompt}).",
                "Ask for something else with ‹give prompt›.",
            )
    face, *others = (crop.face(face) for face in faces)
    found: Found | None = None
    if wishes.mask is None:
        found = found_from_words(models, crop.working, source_prompt, prompt, face)
    return Job(
        picture=crop.working,
        source_prompt=source_prompt,
        prompt=prompt,
        mask=_given_mask(wishes.mask, crop) if found is None else found.mask,
        face=face,
        identity=wishes.identity,
        preset=seeded(wishes.preset, wishes.seed),
        others=tuple(others),
        budget=wishes.budget,
        found=found,
    )


def _given_mask(mask: Tensor | None, crop: FaceCrop) -> Tensor:
    assert mask is not None
    inside = crop.to_working(mask).clamp(0, 1)
    if not bool((inside > 0).any()):
        raise EmptyMask(
            "The mask is empty around the face, where the work is done.",
            "Paint the face, or choose another one with ‹give face›.",
        )
    return inside


def _patch(crop: FaceCrop, result: Tensor, grey: bool) -> Patch:
    """The result in the photo's own pixels, grey if the photo is."""
    patch = crop.paste(result.cpu())
    return replace(patch, pixels=luma(patch.pixels).expand(-1, 3, -1, -1)) if grey else patch
