"""Faces found in a picture, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..worlds import known_by


@dataclass(frozen=True, eq=False)
class Face:
    """One face: box (x0, y0, x1, y1) in pixels, landmarks [5,2] (x, y) if known, score in [0,1]."""

    box: tuple[float, float, float, float]
    landmarks: Tensor | None
    score: float

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        x0, y0, x1, y1 = self.box
        return max(0.0, x1 - x0) * max(0.0, y1 - y0)

    def moved(self, left: float, top: float, scale: float = 1.0) -> Face:
        """The face in a picture that begins at ``left``, ``top`` of this one and is ``scale`` times as large."""
        x0, y0, x1, y1 = self.box
        box = ((x0 - left) * scale, (y0 - top) * scale, (x1 - left) * scale, (y1 - top) * scale)
        points = self.landmarks
        if points is not None:
            points = (points - points.new_tensor([left, top]) + 0.5) * scale - 0.5
        return Face(box, points, self.score)


FaceChoice = Literal["largest", "all"] | int
"""Which faces of a picture are meant: the largest, all, or the one of that number from 0."""

FaceFinder = Callable[[Tensor], list[Face]]
"""[3,H,W] RGB in [0,1] -> the faces in it, best or largest first; empty when there are none."""


def choose(faces: Sequence[Face], which: FaceChoice) -> list[Face]:
    """The faces meant by `which`: the largest, all of them, or the one with that index from 0.

    Raises FluxGuardError when there is no face, or none of that index.
    """
    if not faces:
        raise FluxGuardError(
            "No face was found in the picture; expected at least one.",
            "Use a picture with a larger, "
            "unobstructed face, another detector, or give a box by hand.",
        )
    if which == "all":
        return list(faces)
    if which == "largest":
        return [max(faces, key=lambda face: face.area)]
    if not isinstance(which, int) or not 0 <= which < len(faces):
        raise FluxGuardError(
            f"Face {which!r} was asked for, but the picture has {len(faces)} (numbered from 0).",
            'Choose one of them, "largest" or "all".',
        )
    return [faces[which]]


def anew(find_faces: FaceFinder | None) -> FaceFinder | None:
    """Who finds faces in other pictures than the one they were told of: nobody where they were typed or read."""
    return None if find_faces is None or known_by(find_faces) is None else find_faces


def nearest(faces: Sequence[Face], face: Face) -> Face | None:
    """Of faces found anew, the one that is `face`: nearest, and not further off than half its size."""
    reach = 0.5 * face.area**0.5
    by_distance = sorted((_distance(other, face), i) for i, other in enumerate(faces))
    return faces[by_distance[0][1]] if by_distance and by_distance[0][0] <= reach else None


def _distance(one: Face, other: Face) -> float:
    if one.landmarks is not None and other.landmarks is not None:
        apart = one.landmarks.mean(0) - other.landmarks.to(one.landmarks).mean(0)
    else:
        a, b = torch.tensor(one.box), torch.tensor(other.box)
        apart = (a[:2] + a[2:] - b[:2] - b[2:]) / 2
    return float(apart.norm())


def around(faces: Sequence[Face]) -> Face:
    """The box around all faces; the only one as it is."""
    if len(faces) == 1:
        return faces[0]
    left, top, right, bottom = zip(*(face.box for face in faces), strict=True)
    box = (min(left), min(top), max(right), max(bottom))
    return Face(box, None, min(face.score for face in faces))
