"""The other main job: a photo as it is, without words and without FLUX; find the faces, protect, measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..evaluate.likeness import likeness_of_faces
from ..evaluate.memory import peak_memory
from ..evaluate.quality import quality
from ..evaluate.report import Pictures, Report
from ..evaluate.similarity import Recognition, Shot, second_shot
from ..evaluate.surroundings import measure_face, surroundings
from ..evaluate.transforms import SHARING, Transform, autoencoder
from ..faces.face import Face, FaceChoice, FaceFinder, anew, choose
from ..pictures.face_crop import union
from ..pictures.files import luma
from ..pictures.geometry import crop_to, pad_to_multiple
from ..protect.engine import Step
from ..protect.photo import Autoencoder, protect_pixels
from ..protect.presets import PHOTO_PRESETS, PhotoPreset
from ..recognition.ensemble import Ensemble
from ..worlds import Knower, known_by
from .photo import Admit, Measuring
from .portrait import Observer

PRESET_WORDS = {
    "default": "default: as much protection as a budget allows that friends hardly notice.",
    "gentle": "gentle: a smaller budget, closer to the photo, with less protection.",
    "strong": "strong: protects whatever it looks like. Look at the picture before you publish it.",
}


_WHOLE = Measuring()


@dataclass(frozen=True, eq=False)
class Judges:
    """Everything that a protection without an edit needs besides the photo.

    Args:
        autoencoder: its latent is varied beside the pixels; None leaves the pixels alone.
    """

    ensemble: Ensemble
    find_faces: FaceFinder
    autoencoder: Autoencoder | None = None

    @property
    def knowers(self) -> tuple[Knower, ...]:
        """Everything that works on a photo, with what it knows."""
        coder = self.autoencoder
        return (
            Knower("the detector", known_by(self.find_faces)),
            Knower("the autoencoder", None if coder is None else coder.world),
            *(Knower(e.name, e.world, judges=True) for e in self.ensemble.members),
        )


@dataclass(frozen=True, eq=False)
class AsItIs:
    """What is to happen to a photo.

    Args:
        mask: where it may change, [1, 1, H, W] in [0, 1], on top of the faces; None means all of them.
        grey: the photo is greyscale, and so is the result.
        far: false accept rate of the report's thresholds.
    """

    preset: PhotoPreset = PHOTO_PRESETS["default"]
    face: FaceChoice = "largest"
    mask: Tensor | None = None
    grey: bool = False
    seed: int = 0
    far: float = 1e-2


@dataclass(frozen=True, eq=False)
class Kept:
    """A protected photo, and what is known about it.

    Args:
        photo, protected: [1, 3, H, W] in [0, 1].
        region: where the protection may have changed pixels, [1, 1, H, W] in [0, 1].
        interrupted: the user stopped it; the picture is the best so far.
        report: None where nothing was to be measured, or the measuring failed.
        pictures: what illustrates the report.
        unmeasured: why there is no report.
    """

    photo: Tensor
    protected: Tensor
    region: Tensor
    faces: tuple[Face, ...]
    wishes: AsItIs
    interrupted: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    report: Report | None = None
    pictures: Pictures | None = None
    unmeasured: str = ""


def protect_as_it_is(
    judges: Judges,
    photo: Tensor,
    wishes: AsItIs = AsItIs(),
    *,
    measuring: Measuring | None = _WHOLE,
    observer: Observer | None = None,
    admit: Admit | None = None,
    ready: Callable[[Kept], None] | None = None,
) -> Kept:
    """Protect the people in a photo without editing it, one face after the other.

    Args:
        photo: [1, 3, H, W] in [0, 1], on the grid of 1/255, of any size.
        measuring: None leaves the report out.
        observer: progress; raising ``Interrupted`` keeps the best so far.
        admit: called with the photo and all faces in it before any work; raises where it must not be worked on.
        ready: called with the finished picture before anything is measured, to save it.

    Raises:
        FluxGuardError: no face, none with five points, a mask without any of a face; never because of the measuring.
    """
    started = time.perf_counter()
    found = judges.find_faces(photo[0])
    if admit is not None:
        admit(photo, found)
    faces = tuple(choose(found, wishes.face))
    result = _protected(judges, photo, wishes, faces, observer)
    result = replace(result, seconds={"run": time.perf_counter() - started})
    if ready is not None:
        ready(result)
    if measuring is None:
        return result
    try:
        report, pictures = _reported(judges, result, measuring)
    except Exception as error:  # whatever it is, the picture is there
        told = str(error) if isinstance(error, FluxGuardError) else type(error).__name__
        return replace(result, unmeasured=told)
    return replace(result, report=report, pictures=pictures)


def _protected(
    judges: Judges,
    photo: Tensor,
    wishes: AsItIs,
    faces: tuple[Face, ...],
    observer: Observer | None,
) -> Kept:
    points = [_points(face) for face in faces]
    picture, region = photo, torch.zeros_like(photo[:, :1])
    interrupted = False
    for number, landmarks in enumerate(points):
        done = protect_pixels(
            picture,
            judges.ensemble,
            landmarks,
            wishes.preset,
            autoencoder=judges.autoencoder,
            mask=wishes.mask,
            seed=wishes.seed,
            on_step=_observed(observer, number, len(faces), wishes.preset.steps),
        )
        picture, region = done.picture, torch.maximum(region, done.region)
        interrupted = done.interrupted
        if interrupted:
            break
    if wishes.grey:
        picture = (luma(picture) * 255).round().expand(-1, 3, -1, -1) / 255
    return Kept(photo, picture, region, faces, wishes, interrupted)


def _points(face: Face) -> Tensor:
    if face.landmarks is None:
        raise FluxGuardError(
            "The face came as a box without landmarks, and its five points must be known.",
            "Use a detector that finds points, such as yunet.",
        )
    return face.landmarks


def _observed(
    observer: Observer | None, number: int, faces: int, steps: int
) -> Callable[[Step, Tensor], None] | None:
    if observer is None:
        return None

    def told(step: Step, picture: Tensor) -> None:
        observer("protection", number * steps + step.step + 1, faces * steps, picture)

    return told


def _reported(judges: Judges, result: Kept, measuring: Measuring) -> tuple[Report, Pictures]:
    """Recognisers and likeness on every protected face, measured on the picture as it will be saved."""
    begun = time.perf_counter()
    photo, protected, wishes = result.photo.cpu(), result.protected.cpu(), result.wishes
    second, left_out = None, ""
    if measuring.second is not None:
        second, left_out = second_shot(measuring.second.cpu(), judges.find_faces)
    recognised = _recognised(judges, photo, protected, result, second)
    looks = likeness_of_faces(photo, protected, [face.landmarks for face in result.faces])
    size = (photo.shape[-2], photo.shape[-1])
    left, top, right, bottom = union([surroundings(face, size) for face in result.faces])
    seen, kept = (p[..., top:bottom, left:right] for p in (photo, protected))
    region = result.region.cpu()[..., top:bottom, left:right]
    notes = (PRESET_WORDS.get(wishes.preset.name, ""), *measuring.notes, left_out)
    stopped = "Stopped before the end: this is the best so far." if result.interrupted else ""
    report = Report(
        recognisers=recognised,
        edit=quality(seen, seen),
        protection=quality(kept, seen),
        likeness=looks,
        size=size,
        preset=wishes.preset.name,
        settings={
            "space": "pixels" if judges.autoencoder is None else "pixels and latent",
            "faces": len(result.faces),
            "optimiser_steps": wishes.preset.steps,
            "budget": dict(wishes.preset.budget.__dict__),
            **measuring.settings,
        },
        seconds={**result.seconds, "measuring": time.perf_counter() - begun},
        peak_bytes=peak_memory(),
        device="cpu",
        notes=tuple(note for note in (*notes, stopped) if note),
    )
    return report, Pictures(seen, seen, kept, region=(region > 0).float())


def _recognised(
    judges: Judges, photo: Tensor, protected: Tensor, result: Kept, second: Shot | None
) -> tuple[Recognition, ...]:
    attacked = judges.ensemble.attacked
    members = [(encoder, encoder in attacked) for encoder in judges.ensemble.members]
    coder = judges.autoencoder
    transforms = SHARING if coder is None else (*SHARING, _round_trip(coder))
    found: list[Recognition] = []
    for number, face in enumerate(result.faces):
        left, top, right, bottom = surroundings(face, (photo.shape[-2], photo.shape[-1]))
        original, kept = (p[..., top:bottom, left:right] for p in (photo, protected))
        results = measure_face(
            members,
            (original, original, kept),
            face.moved(left, top),
            anew(judges.find_faces),
            second=second,
            transforms=transforms,
            far=result.wishes.far,
        )
        found += named(results, number, len(result.faces))
    return tuple(found)


def _round_trip(coder: Autoencoder) -> Transform:
    @torch.no_grad()
    def through(picture: Tensor) -> Tensor:
        whole = pad_to_multiple(picture, coder.cell)
        return crop_to(coder.decode(coder.encode(whole)), (picture.shape[-2], picture.shape[-1]))

    return autoencoder(through, lambda picture: picture)


def named(results: Sequence[Recognition], number: int, faces: int) -> list[Recognition]:
    """Of several faces, results say which one they are of."""
    if faces == 1:
        return list(results)
    return [replace(result, name=f"{result.name}, face {number}") for result in results]
