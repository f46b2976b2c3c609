"""The report looks at the face that was protected, found anew in every picture."""

from __future__ import annotations

import torch
from torch import Tensor

from fluxguard_core.evaluate.similarity import second_shot
from fluxguard_core.evaluate.surroundings import found_anew, surroundings
from fluxguard_core.faces.detectors import face_in_box, typed_box
from fluxguard_core.faces.face import Face

PICTURE = torch.zeros(1, 3, 64, 128)


def at(left: float, size: float = 32) -> Face:
    return face_in_box((left, 12, left + size, 12 + size))


def points(face: Face) -> Tensor:
    assert face.landmarks is not None
    return face.landmarks


def test_the_protected_face_is_found_anew_among_others() -> None:
    known, moved, other = at(80), at(82), at(8, 40)
    shot = found_anew(PICTURE, known, lambda image: [other, moved])
    assert shot.landmarks is not None and torch.equal(shot.landmarks, points(moved))
    for found in ([other], []):  # it hides from the detector: a tracker still knows where it was
        shot = found_anew(PICTURE, known, lambda image, found=found: found)  # type: ignore[misc]
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


def test_surroundings_lie_on_the_grid_of_recompression_and_inside_the_picture() -> None:
    face = face_in_box((1003, 807, 1203, 1107))
    left, top, right, bottom = surroundings(face, (3000, 4000))
    assert (left, top) == (688, 496) and (right, bottom) == (1504, 1408)
    assert surroundings(face, (1200, 1250)) == (688, 496, 1250, 1200)
    assert surroundings(Face((1003, 807, 1203, 1107), None, 1.0), (1200, 1250)) == (
        *(0, 0, 1250, 1200),
    )
    beyond = surroundings(face_in_box((-50, -60, 20, 10)), (64, 64))
    assert beyond[0] == beyond[1] == 0 and beyond[2] <= 64 and beyond[3] <= 64
