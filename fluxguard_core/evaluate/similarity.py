"""What recognisers say: before and after protection, and after the picture has been shared.

Every number stands beside its unprotected baseline, and every recogniser says whether the
optimisation has used it. A success against a recogniser that was attacked says nothing about others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..faces.crops import Crop
from ..faces.detectors import TypedBoxes
from ..recognition import Ensemble, FaceEncoder, FaceFinder, align, choose, whole_frame
from .quality import eight_bit
from .transforms import SHARING, Transform


@dataclass(frozen=True, eq=False)
class Shot:
    """A picture as a recogniser meets it: image [3,H,W] or [1,3,H,W], landmarks [5,2] or None.

    Without landmarks the whole frame is squashed to the recogniser's size.
    """

    image: Tensor
    landmarks: Tensor | None = None

    def batch(self) -> Tensor:
        """[1,3,H,W]."""
        image = self.image if self.image.ndim == 4 else self.image[None]
        if image.ndim != 4 or image.shape[:2] != (1, 3):
            raise FluxGuardError(
                f"Expected one picture [3,H,W]; got {tuple(self.image.shape)}.",
                "Measure the pictures of a batch one by one.",
            )
        return image


@dataclass(frozen=True)
class Robustness:
    """Cosine to the original after a transform: of the unprotected edit and of the protected one."""

    name: str
    label: str
    edited: float
    protected: float


@dataclass(frozen=True)
class Recognition:
    """One recogniser's cosines. `edited` is the unprotected baseline of `protected`.

    edited, protected: to the original; second_*: to another photo of the person; target_*: to the
    identity aimed at. None where there was nothing to compare with. threshold is the cosine above
    which this recogniser says "same person" at the false accept rate `far`, None if unknown.
    """

    name: str
    attacked: bool
    edited: float
    protected: float
    threshold: float | None = None
    far: float | None = None
    source: str | None = None
    second_edited: float | None = None
    second_protected: float | None = None
    target_edited: float | None = None
    target_protected: float | None = None
    robustness: tuple[Robustness, ...] = field(default=())

    @property
    def role(self) -> str:
        """ "attacked" or "held out"."""
        return "attacked" if self.attacked else "held out"

    def matches(self, cosine: float | None) -> bool | None:
        """Whether a cosine counts as the same person (strictly above); None if that is unknown."""
        return None if self.threshold is None or cosine is None else cosine > self.threshold

    @property
    def withheld(self) -> bool | None:
        """Matched before protection and no longer after; None if the threshold is unknown."""
        before, after = self.matches(self.edited), self.matches(self.protected)
        return None if before is None or after is None else before and not after


def second_shot(picture: Tensor, find_faces: FaceFinder | None) -> tuple[Shot | None, str]:
    """Another photo [1,3,H,W] of the person with its largest face, or None and why it is left out.

    A photo whose face is not found is not squashed whole into a recogniser, nor cut by a box typed
    for the first one: the two crops would not show the same, and their low similarity would pass for
    protection.
    """
    if find_faces is None or isinstance(find_faces, TypedBoxes):
        return None, (
            "The second photo was not compared: nothing here finds the face in it. Install YuNet "
            "(‹run models download yunet›)."
        )
    faces = [face for face in find_faces(picture[0]) if face.landmarks is not None]
    if not faces:
        return None, (
            "The second photo was not compared: no face was found in it. Use one with a larger, "
            "unobstructed face."
        )
    return Shot(picture, choose(faces, "largest")[0].landmarks), ""


def crop(shot: Shot, size: int | Crop) -> Tensor:
    """The face as a recogniser of that crop sees it: [1,3,size,size]."""
    image = shot.batch()
    if shot.landmarks is None:
        return whole_frame(image, size)
    return align(image, shot.landmarks.to(image)[None], size)


def embed(encoder: FaceEncoder, shot: Shot) -> Tensor:
    """Unit vector [D] of one picture, without gradients."""
    with torch.no_grad():
        return encoder(crop(shot, encoder.crop))[0]


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two unit vectors [D]; FluxGuardError when it is not finite."""
    value = float((a.float() * b.to(a).float()).sum())
    if not math.isfinite(value):
        raise FluxGuardError(
            "A recogniser returned NaN or infinite values: its weights are damaged or its input is.",
            "Check the file with ‹run models verify›.",
        )
    return value


def _threshold(encoder: FaceEncoder, far: float) -> tuple[float | None, float | None, str | None]:
    for entry in encoder.thresholds:
        if math.isclose(entry.far, far, rel_tol=1e-6):
            return entry.value, entry.far, entry.source
    return None, None, None


def _saved(shot: Shot) -> Shot:
    return Shot(eight_bit(shot.batch()), shot.landmarks)


@dataclass(frozen=True, eq=False)
class Shared:
    """Both pictures after one transform; made once for all recognisers (see `share`)."""

    transform: Transform
    edited: Shot
    protected: Shot


def share(edited: Shot, protected: Shot, transforms: Sequence[Transform]) -> tuple[Shared, ...]:
    """Both pictures, rounded to 8 bits, after each transform."""
    return tuple(
        Shared(transform, _changed(transform, edited), _changed(transform, protected))
        for transform in transforms
    )


def _changed(transform: Transform, shot: Shot) -> Shot:
    return Shot(transform(_saved(shot).batch()), shot.landmarks)


def recognise(
    encoder: FaceEncoder,
    original: Shot,
    edited: Shot,
    protected: Shot,
    *,
    attacked: bool,
    second: Shot | None = None,
    target: Tensor | None = None,
    shared: Sequence[Shared] = (),
    far: float = 1e-2,
) -> Recognition:
    """One recogniser's view of a protection; edited and protected are rounded to 8 bits first.

    target: the unit vector [D] aimed at, in this encoder's space (`reference_embedding`).
    shared: the pictures after sharing transforms (`share`).
    """
    edited, protected = _saved(edited), _saved(protected)
    reference = embed(encoder, original)
    with_edit, with_protection = embed(encoder, edited), embed(encoder, protected)
    another = None if second is None else embed(encoder, second)
    value, rate, source = _threshold(encoder, far)
    return Recognition(
        name=encoder.name,
        attacked=attacked,
        threshold=value,
        far=rate,
        source=source,
        edited=cosine(reference, with_edit),
        protected=cosine(reference, with_protection),
        second_edited=_maybe(another, with_edit),
        second_protected=_maybe(another, with_protection),
        target_edited=_maybe(target, with_edit),
        target_protected=_maybe(target, with_protection),
        robustness=tuple(
            Robustness(
                after.transform.name,
                after.transform.label,
                cosine(reference, embed(encoder, after.edited)),
                cosine(reference, embed(encoder, after.protected)),
            )
            for after in shared
        ),
    )


def _maybe(reference: Tensor | None, vector: Tensor) -> float | None:
    return None if reference is None else cosine(reference, vector)


def measure(
    ensemble: Ensemble,
    original: Shot,
    edited: Shot,
    protected: Shot,
    *,
    second: Shot | None = None,
    targets: Mapping[str, Tensor] | None = None,
    transforms: Sequence[Transform] = SHARING,
    far: float = 1e-2,
) -> tuple[Recognition, ...]:
    """Every recogniser of an ensemble, attacked ones first (see `recognise`).

    targets: the identity aimed at by recogniser name; leave it out for an untargeted protection.
    """
    given, shared = targets or {}, share(edited, protected, transforms)
    return tuple(
        recognise(
            encoder,
            original,
            edited,
            protected,
            attacked=index < len(ensemble.attacked),
            second=second,
            target=given.get(encoder.name),
            shared=shared,
            far=far,
        )
        for index, encoder in enumerate(ensemble.members)
    )


def linkability(encoder: FaceEncoder, shots: Sequence[Shot]) -> float:
    """Mean cosine among several protected pictures of one person: how well they lead to each other."""
    if len(shots) < 2:
        raise FluxGuardError(f"At least two pictures are compared; got {len(shots)}.")
    vectors = torch.stack([embed(encoder, _saved(shot)) for shot in shots])
    pairs = torch.triu_indices(len(shots), len(shots), 1)
    return float((vectors @ vectors.T)[pairs[0], pairs[1]].mean())
