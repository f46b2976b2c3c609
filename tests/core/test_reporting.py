"""The report looks at the face that was protected, found anew in every picture."""

from __future__ import annotations

import torch
from torch import Tensor

from fluxguard_core.cli.report import shot_of
from fluxguard_core.evaluate.similarity import second_shot
from fluxguard_core.faces.detectors import face_in_box, typed_box
from fluxguard_core.faces.face import Face
from fluxguard_core.pipelines.report import _shot

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


def test_a_second_photo_counts_only_with_its_face() -> None:
    """Squashed whole it would be unlike the crop whoever it shows, and pass for protection."""
    moved, other = at(82), at(8, 40)
    shot, left_out = second_shot(PICTURE, lambda image: [moved, other])
    assert shot is not None and shot.landmarks is not None and left_out == ""
    assert torch.equal(shot.landmarks, points(other))  # the largest
    boxes_only = Face((8, 12, 48, 52), None, 1.0)
    for find, reason in (
        (None, "Install YuNet"),
        (typed_box((80, 12, 112, 44)), "Install YuNet"),  # it was typed for the first photo
        (lambda image: [], "no face was found in it"),
        (lambda image: [boxes_only], "no face was found in it"),
    ):
        shot, left_out = second_shot(PICTURE, find)  # type: ignore[arg-type]
        assert shot is None and "was not compared" in left_out and reason in left_out


def test_the_report_of_finished_pictures_finds_faces_anew() -> None:
    before = shot_of(PICTURE, lambda image: [at(80)])
    after = shot_of(PICTURE, lambda image: [at(82)], before)
    assert after.landmarks is not None and torch.equal(after.landmarks, points(at(82)))
    hidden = shot_of(PICTURE, lambda image: [], before)
    assert hidden.landmarks is not None and torch.equal(hidden.landmarks, points(at(80)))
