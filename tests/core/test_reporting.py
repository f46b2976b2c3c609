"""The report looks at the face that was protected, found anew in every picture."""

from __future__ import annotations

import torch
from torch import Tensor

from fluxguard_core.evaluate.commands import shot_of
from fluxguard_core.recognition.detectors import face_in_box
from fluxguard_core.recognition.faces import Face
from fluxguard_core.reporting import _shot

PICTURE = torch.zeros(1, 3, 64, 128)


def at(left: float, size: float = 32) -> Face:
    return face_in_box((left, 12, left + size, 12 + size))


def points(face: Face) -> Tensor:
    assert face.landmarks is not None
    return face.landmarks


def test_the_protected_face_is_found_anew_among_others() -> None:
    known, moved, other = at(80), at(82), at(8, 40)
    shot = _shot(lambda image: [other, moved], PICTURE, known)
    assert shot.landmarks is not None and torch.equal(shot.landmarks, points(moved))
    for found in ([other], []):  # it hides from the detector: a tracker still knows where it was
        shot = _shot(lambda image, found=found: found, PICTURE, known)  # type: ignore[misc]
        assert shot.landmarks is not None and torch.equal(shot.landmarks, points(known))
    largest = _shot(lambda image: [moved, other], PICTURE, None).landmarks
    assert largest is not None and torch.equal(largest, points(other))
    assert _shot(lambda image: [], PICTURE, None).landmarks is None


def test_the_report_of_finished_pictures_finds_faces_anew() -> None:
    before = shot_of(PICTURE, lambda image: [at(80)])
    after = shot_of(PICTURE, lambda image: [at(82)], before)
    assert after.landmarks is not None and torch.equal(after.landmarks, points(at(82)))
    hidden = shot_of(PICTURE, lambda image: [], before)
    assert hidden.landmarks is not None and torch.equal(hidden.landmarks, points(at(80)))
