"""Where a face is and how it is turned: landmark layouts, polygons and the face's own axes.

The released rules are boxes along the picture's axes at 512 pixels. Here they are written in the
face's own axes: origin between the eyes, u from the viewer-left to the viewer-right eye, v at right
angles down the face, one unit = the distance of the eyes. A tilted or a small face needs no other
rule. The proportions assumed where a part is hidden are those of an average adult face.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FluxGuardError

FACE_IDS = (1, 2, 3, 4, 5, 6, 10, 11, 12, 13)
UNKNOWN = 255

# MediaPipe face mesh: closed outlines.
_MESH_EYES = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466),
)
_MESH_BROWS = (
    (70, 63, 105, 66, 107, 55, 65, 52, 53, 46),
    (300, 293, 334, 296, 336, 285, 295, 282, 283, 276),
)
_MESH_LIPS = (
    61,
    146,
    91,
    181,
    84,
    17,
    314,
    405,
    321,
    375,
    291,
    409,
    270,
    269,
    267,
    0,
    37,
    39,
    40,
    185,
)
_MESH_MOUTH = (
    78,
    95,
    88,
    178,
    87,
    14,
    317,
    402,
    318,
    324,
    308,
    415,
    310,
    311,
    312,
    13,
    82,
    81,
    80,
    191,
)
_MESH_OVAL = (
    10,
    338,
    297,
    332,
    284,
    251,
    389,
    356,
    454,
    323,
    361,
    288,
    397,
    365,
    379,
    378,
    400,
    377,
    152,
    148,
    176,
    149,
    150,
    136,
    172,
    58,
    132,
    93,
    234,
    127,
    162,
    21,
    54,
    103,
    67,
    109,
)
_MESH_NOSE = (168, 122, 126, 129, 98, 97, 2, 326, 327, 358, 355, 351)


class NoFace(FluxGuardError):
    """A face was needed and none was found."""


@dataclass(frozen=True, eq=False)
class FaceFrame:
    """The face's axes, and where its parts lie on them (in distances of the eyes).

    u, v: [H,W] coordinates of every pixel; unit: pixels that one pixel of the released 512-pixel
    rules is worth here; the rest: extents of the face's parts on the two axes.
    """

    u: Tensor
    v: Tensor
    unit: float
    left: float
    right: float
    chin: float
    brow: float
    nose: float
    mouth_left: float
    mouth_right: float
    mouth_top: float
    mouth_bottom: float

    def box(self, u0: float, u1: float, v0: float, v1: float) -> Tensor:
        """Bool [H,W]: pixels with u0 <= u <= u1 and v0 <= v <= v1."""
        return (self.u >= u0) & (self.u <= u1) & (self.v >= v0) & (self.v <= v1)

    def ellipse(self, centre_u: float, centre_v: float, half_u: float, half_v: float) -> Tensor:
        """Bool [H,W]: an ellipse along the face's axes."""
        return ((self.u - centre_u) / half_u) ** 2 + ((self.v - centre_v) / half_v) ** 2 <= 1


def isin(labels: Tensor, *ids: int) -> Tensor:
    """Bool [H,W]: pixels whose label is one of `ids`."""
    return torch.isin(labels, torch.tensor(ids, dtype=labels.dtype, device=labels.device))


def polygon(points: Tensor, height: int, width: int) -> Tensor:
    """Bool [H,W]: pixel centres inside the closed polygon [N,2] (x, y), even-odd rule."""
    y = torch.arange(height, dtype=torch.float32, device=points.device).view(-1, 1)
    x = torch.arange(width, dtype=torch.float32, device=points.device).view(1, -1)
    inside = torch.zeros(height, width, dtype=torch.bool, device=points.device)
    ends = points.to(torch.float32)
    for (x0, y0), (x1, y1) in zip(ends.tolist(), ends.roll(-1, 0).tolist(), strict=True):
        if y0 == y1:
            continue
        crosses = ((y >= y0) != (y >= y1)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        inside ^= crosses
    return inside


def five_points(landmarks: Tensor) -> Tensor:
    """[5,2] (eyes, nose, mouth corners, viewer-left first) from 5, 68, 468 or 478 landmarks."""
    points = landmarks.detach().to(torch.float32)
    count = points.shape[0]
    if points.ndim != 2 or points.shape[1] != 2 or count not in (5, 68, 468, 478):
        raise FluxGuardError(
            f"Landmarks of shape {tuple(landmarks.shape)} are unknown: expected [N,2] pixel (x, y) "
            "with N = 5 (eyes, nose, mouth corners), 68 (iBUG) or 468/478 (MediaPipe)."
        )
    if count == 5:
        return points
    if count == 68:
        rows = (points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54])
    else:
        eyes = (points[[33, 133]].mean(0), points[[362, 263]].mean(0))
        rows = (*eyes, points[1], points[61], points[291])
    return torch.stack(rows)


def labels_from_landmarks(landmarks: Tensor, height: int, width: int) -> Tensor:
    """uint8 [H,W] face-parsing labels (CelebAMask-HQ ids) drawn from 68 or 468/478 landmarks.

    Skin, brows, eyes, nose and lips only; whatever landmarks cannot tell (hair, clothes,
    background) is `UNKNOWN`. Stands in for a parser where there is none.
    """
    count = landmarks.shape[0]
    if count not in (68, 468, 478):
        raise FluxGuardError(
            f"{count} landmarks do not outline a face.",
            "Give 68 or 478, or a face parser's labels.",
        )
    labels = torch.full((height, width), UNKNOWN, dtype=torch.uint8, device=landmarks.device)
    for label, points in _outlines(landmarks.detach().to(torch.float32)):
        labels[polygon(points, height, width)] = label
    if not isin(labels, *FACE_IDS).any():
        raise NoFace(
            "The landmarks lie outside the picture.", "Give the landmarks of this picture."
        )
    return labels


def _outlines(points: Tensor) -> tuple[tuple[int, Tensor], ...]:
    if points.shape[0] != 68:
        rings = (
            (1, _MESH_OVAL),
            (10, _MESH_NOSE),
            (2, _MESH_BROWS[0]),
            (3, _MESH_BROWS[1]),
            (4, _MESH_EYES[0]),
            (5, _MESH_EYES[1]),
            (12, _MESH_LIPS),
            (11, _MESH_MOUTH),
        )
        return tuple((label, points[list(ring)]) for label, ring in rings)
    nose, chin = points[27:36], points[0:17]
    # 68 points end at the brows: the forehead is the jaw's ends raised by the height of the nose.
    rise = (points[27] - points[33]) * 1.1
    top = points[[26, 24, 19, 17]] + rise
    brows = [
        torch.cat((ring, (ring + 0.12 * (points[33] - points[27])).flip(0)))
        for ring in (points[17:22], points[22:27])
    ]
    return (
        (1, torch.cat((chin, top))),
        (10, torch.cat((nose[:1], nose[4:]))),
        (2, brows[0]),
        (3, brows[1]),
        (4, points[36:42]),
        (5, points[42:48]),
        (12, points[48:60]),
        (11, points[60:68]),
    )


def _grid(labels: Tensor) -> tuple[Tensor, Tensor]:
    height, width = labels.shape
    y = torch.arange(height, dtype=torch.float32, device=labels.device).view(-1, 1)
    x = torch.arange(width, dtype=torch.float32, device=labels.device).view(1, -1)
    return x.expand(height, width), y.expand(height, width)


def _centre(mask: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.stack((x[mask].mean(), y[mask].mean()))


def _eyes_of(labels: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Eye centres [2], viewer-left first, from eyes, else glasses, brows, or the face's box."""
    face = isin(labels, *FACE_IDS)
    for pair in ((4, 5), (2, 3)):
        masks = [isin(labels, label) for label in pair]
        if all(bool(mask.any()) for mask in masks):
            points = sorted((_centre(mask, x, y) for mask in masks), key=lambda p: float(p[0]))
            if pair == (4, 5) or not isin(labels, 6).any():
                drop = 0.0 if pair == (4, 5) else 0.36
                a, b = points
                down = torch.stack((-(b - a)[1], (b - a)[0])) * drop
                return a + down, b + down
    glasses = isin(labels, 6)
    if glasses.any():
        middle = _centre(glasses, x, y)
        return _centre(glasses & (x <= middle[0]), x, y), _centre(glasses & (x > middle[0]), x, y)
    middle = _centre(face, x, y)
    reach = 0.25 * (face.sum() ** 0.5)
    side = torch.stack((reach, reach * 0))
    up = torch.stack((reach * 0, -0.5 * reach))
    return middle - side + up, middle + side + up


def _extent(values: Tensor, mask: Tensor, fallback: tuple[float, float]) -> tuple[float, float]:
    chosen = values[mask]
    if chosen.numel() < 3:
        return fallback
    # Quantiles: a few stray pixels of a parser must not stretch the face.
    low, high = torch.quantile(
        chosen[:: max(1, chosen.numel() // 100_000)],
        torch.tensor([0.01, 0.99], device=chosen.device),
    ).tolist()
    return low, high


def face_axes(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """u, v [H,W] of every pixel on the axes of five points [5,2]."""
    y = torch.arange(height, dtype=torch.float32, device=points.device).view(-1, 1)
    x = torch.arange(width, dtype=torch.float32, device=points.device).view(1, -1)
    axis = points[1] - points[0]
    distance = float(axis.norm().clamp_min(1e-6))
    axis, middle = axis / distance, (points[0] + points[1]) / 2
    u = ((x - middle[0]) * axis[0] + (y - middle[1]) * axis[1]) / distance
    v = (-(x - middle[0]) * axis[1] + (y - middle[1]) * axis[0]) / distance
    return u, v


def face_frame(labels: Tensor, landmarks: Tensor | None = None) -> FaceFrame:
    """The face's axes and extents from labels [H,W] (CelebAMask-HQ ids) and, if given, landmarks.

    Landmarks ([5,2], [68,2], [468|478,2], pixels) fix the axes; the labels fix the extents.
    Raises NoFace when the labels hold no face.
    """
    face = isin(labels, *FACE_IDS)
    if not face.any():
        raise NoFace(
            "The face parser found no face in this picture.",
            "Give a picture in which the face is larger and looks at the camera, or give a mask.",
        )
    x, y = _grid(labels)
    points = None if landmarks is None else five_points(landmarks).to(labels.device)
    left, right = _eyes_of(labels, x, y) if points is None else (points[0], points[1])
    axis = right - left
    distance = float(axis.norm())
    # In profile the eyes fall together; the face's area then tells the size better.
    distance = max(distance, 0.25 * float(face.sum()) ** 0.5)
    axis = axis / axis.norm().clamp_min(1e-6)
    middle = (left + right) / 2
    u = ((x - middle[0]) * axis[0] + (y - middle[1]) * axis[1]) / distance
    v = (-(x - middle[0]) * axis[1] + (y - middle[1]) * axis[0]) / distance
    return _measured(labels, face, u, v)


def _measured(labels: Tensor, face: Tensor, u: Tensor, v: Tensor) -> FaceFrame:
    mouth = isin(labels, 11, 12, 13)
    sides = _extent(u, face, (-1.1, 1.1))
    chin = _extent(v, face, (-1.1, 1.8))[1]
    lips = _extent(v, mouth, (1.0, 1.25))
    corners = _extent(u, mouth, (-0.4, 0.4))
    return FaceFrame(
        u=u,
        v=v,
        unit=float(face.sum()) ** 0.5 / 256,
        left=sides[0],
        right=sides[1],
        chin=chin,
        brow=_extent(v, isin(labels, 2, 3), (-0.5, -0.3))[0],
        nose=_extent(v, isin(labels, 10), (0.0, 0.7))[1],
        mouth_left=corners[0],
        mouth_right=corners[1],
        mouth_top=lips[0],
        mouth_bottom=lips[1],
    )
