"""Where the parts of a portrait usually are, on the face's own axes.

Axes as in `geometry`: origin between the eyes, one unit = the distance of the eyes. The shapes are those of an
average adult face seen from the front; how far hair, hat and clothes reach was chosen on drawn portraits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .geometry import UNKNOWN, NoFace, face_axes, five_points


@dataclass(frozen=True, eq=False)
class _Axes:
    u: Tensor
    v: Tensor

    def ring(self, u: float, v: float, half_u: float, half_v: float) -> Tensor:
        """Distance from a centre in units of an ellipse: 1 on it."""
        return (((self.u - u) / half_u) ** 2 + ((self.v - v) / half_v) ** 2).sqrt()

    def inside(self, ring: Tensor, soft: float) -> Tensor:
        return torch.sigmoid((1 - ring) / soft)

    def below(self, v: float, soft: float) -> Tensor:
        return torch.sigmoid((self.v - v) / soft)

    def within(self, u: float, soft: float) -> Tensor:
        return torch.sigmoid((u - self.u.abs()) / soft)


def usual_places(landmarks: Tensor, height: int, width: int) -> dict[str, Tensor]:
    """How usual each part is at every pixel, [H,W] in [0,1], by the names that `concepts.PARTS` uses.

    landmarks: [5|68|468|478,2] pixels.
    """
    points = five_points(landmarks).cpu()
    u, v = face_axes(points, height, width)
    axes = _Axes(u, v)
    corners_u, corners_v = _on_axes(points[3:5], points)
    face = torch.minimum(axes.ring(0, 0.45, 1.02, 1.3), axes.ring(0, 0.2, 1.05, 1.05))
    skin = axes.inside(face, 0.08)
    neck = 0.6 * axes.within(0.7, 0.1) * axes.below(1.4, 0.1) * (1 - axes.below(2.0, 0.15))
    lips = axes.ring(
        float(corners_u.mean()),
        float(corners_v.mean()) + 0.03,
        max(0.2, 0.58 * float(corners_u[1] - corners_u[0])),
        0.24,
    )
    eyes = torch.minimum(axes.ring(-0.5, 0, 0.3, 0.17), axes.ring(0.5, 0, 0.3, 0.17))
    return {
        "skin": torch.maximum(skin, neck),
        "eyes": axes.inside(eyes, 0.15),
        "lips": axes.inside(lips, 0.15),
        "hair": _hair(axes, skin),
        "hat": (1 - axes.below(-0.55, 0.12)) * axes.within(1.9, 0.15) * axes.below(-2.6, 0.15),
        "glasses": axes.inside(
            torch.minimum(*(axes.ring(s, 0.03, 0.46, 0.34) for s in (-0.5, 0.5))), 0.12
        ),
        "clothes": axes.below(1.75, 0.12) * torch.sigmoid((2.4 - u.abs() + 0.8 * (v - 2)) / 0.3),
        "background": _background(axes, face),
    }


def small_places(landmarks: Tensor, height: int, width: int) -> tuple[Tensor, dict[int, Tensor]]:
    """What is right of the face's middle line, and the places of nose, ears and neck by their ids, bool [H,W]."""
    points = five_points(landmarks).cpu()
    u, v = face_axes(points, height, width)
    axes = _Axes(u, v)
    tip = float(_on_axes(points[2:3], points)[1])
    outside = torch.minimum(axes.ring(0, 0.45, 1.02, 1.3), axes.ring(0, 0.2, 1.05, 1.05)) > 1
    beside = outside & (v > -0.4) & (v < 0.9)
    return u > 0, {
        10: axes.ring(0, 0.6 * tip, 0.24, 0.6 * tip) < 1,
        7: beside & (u < 0),
        8: beside & (u > 0),
        14: outside & (v >= 0.9),
    }


def labels_from_points(landmarks: Tensor, height: int, width: int) -> Tensor:
    """uint8 [H,W] labels of an average face at five points [5,2]: skin, brows, eyes, nose, lips, else UNKNOWN.

    Stands in for an outline where only a detector's five points are known. Raises NoFace outside the picture.
    """
    points = five_points(landmarks).cpu()
    usual = usual_places(landmarks, height, width)
    axes = _Axes(*face_axes(points, height, width))
    right, small = small_places(landmarks, height, width)
    brows = torch.minimum(*(axes.ring(side, -0.28, 0.36, 0.11) for side in (-0.5, 0.5))) < 1
    face = torch.minimum(axes.ring(0, 0.45, 1.02, 1.3), axes.ring(0, 0.2, 1.05, 1.05)) < 1
    labels = torch.full((height, width), UNKNOWN, dtype=torch.uint8)
    for label, place in (
        (1, face),
        (10, small[10]),
        (2, brows & ~right),
        (3, brows & right),
        (12, usual["lips"] > 0.5),
        (4, (usual["eyes"] > 0.5) & ~right),
        (5, (usual["eyes"] > 0.5) & right),
    ):
        labels[place] = label
    if not bool(face.any()):
        raise NoFace(
            "The landmarks lie outside the picture.", "Give the landmarks of this picture."
        )
    return labels.to(landmarks.device)


def _hair(axes: _Axes, skin: Tensor) -> Tensor:
    cap = axes.inside(axes.ring(0, 0, 1.75, 2.0), 0.1) * (1 - 0.8 * skin)
    cap = cap * (1 - axes.below(1.0, 0.2))
    falls = axes.within(1.6, 0.15) * (1 - axes.within(0.8, 0.1))
    falls = 0.35 * falls * axes.below(0, 0.1) * (1 - axes.below(1.9, 0.25))
    return torch.maximum(cap, falls)


def _background(axes: _Axes, face: Tensor) -> Tensor:
    away = 1 - torch.sigmoid((1.2 - face) / 0.1)
    return away * (1 - 0.7 * axes.below(2.2, 0.2) * axes.within(2.0, 0.2))


def _on_axes(points: Tensor, five: Tensor) -> tuple[Tensor, Tensor]:
    """(u, v) of points [N,2] on the axes of five points."""
    axis = five[1] - five[0]
    distance = axis.norm().clamp_min(1e-6)
    axis = axis / distance
    moved = points - (five[0] + five[1]) / 2
    u = moved @ axis / distance
    v = (-moved[:, 0] * axis[1] + moved[:, 1] * axis[0]) / distance
    return u, v
