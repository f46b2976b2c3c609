"""How a recogniser wants its faces cut: the side of the crop, and where the five points lie in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import FluxGuardError

Points = tuple[tuple[float, float], ...]
CropName = Literal["arcface", "dlib", "box", "whole"]

ARCFACE_TEMPLATE: Tensor = torch.tensor(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
"""Five points [5,2] (x, y) of the 112x112 ArcFace crop, viewer-left eye first."""

# dlib's mean face (shape predictor, shares of the face), before its chips' padding of a quarter.
_DLIB: Points = (
    (0.2255, 0.2160),
    (0.7548, 0.2160),
    (0.4901, 0.5156),
    (0.2541, 0.7802),
    (0.7261, 0.7802),
)
_DLIB_PADDING = 0.25


@dataclass(frozen=True)
class Crop:
    """A square view of a face.

    Args:
        size: side in pixels.
        layout: where the five points go: ``arcface``, ``dlib`` (its mean face with its padding), or own points
            as five (x, y) in shares of the side. ``box`` cuts the upright square around the face's box instead,
            ``whole`` squashes the whole picture.
        margin: what is added around all of that on each side, as a share of it.
    """

    size: int
    layout: CropName | Points = "arcface"
    margin: float = 0.0

    def __post_init__(self) -> None:
        named = self.layout in ("arcface", "dlib", "box", "whole")
        if not named and (len(self.layout) != 5 or any(len(point) != 2 for point in self.layout)):
            raise FluxGuardError(
                f"Expected a crop out of arcface, dlib, box, whole, or five points (x, y) in shares "
                f"of the side, got {self.layout!r}."
            )
        if self.size < 1 or not -0.4 <= self.margin <= 4:
            raise FluxGuardError(
                f"Expected a crop's side in pixels and a margin from -0.4 to 4, got {self.size} and "
                f"{self.margin:g}."
            )

    def template(self) -> Tensor:
        """Where the five points lie [5,2] in pixels of the crop; FluxGuardError for box and whole."""
        if self.layout in ("box", "whole"):
            raise FluxGuardError(f"The crop '{self.layout}' is not cut by five points.")
        points = self._points()
        if not self.margin:
            return points
        half = self.size / 2
        return half + (points - half) / (1 + 2 * self.margin)

    def _points(self) -> Tensor:
        if self.layout == "arcface":
            return arcface(self.size)
        if self.layout == "dlib":
            mean = torch.tensor(_DLIB)
            return self.size * (mean + _DLIB_PADDING) / (1 + 2 * _DLIB_PADDING)
        return self.size * torch.tensor(self.layout, dtype=torch.float32)


def arcface(size: int) -> Tensor:
    """ArcFace template [5,2] for a square crop, by insightface's rule.

    The 112 template is scaled by size/112; multiples of 128 keep the 112 scale and gain 8 columns
    on either side, as `insightface.utils.face_align.estimate_norm` has it.
    """
    if size % 112 != 0 and size % 128 == 0:
        ratio = size / 128.0
        return ARCFACE_TEMPLATE * ratio + torch.tensor([8.0 * ratio, 0.0])
    return ARCFACE_TEMPLATE * (size / 112.0)


def as_crop(size: int | Crop) -> Crop:
    """A bare side means ArcFace's crop of that side."""
    return size if isinstance(size, Crop) else Crop(size)


def box_of(landmarks: Tensor) -> Tensor:
    """Boxes [B,4] (left, top, right, bottom) around five points [B,5,2], as wide as detectors draw them."""
    eyes = (landmarks[:, 1] - landmarks[:, 0]).norm(dim=-1)
    x, y = landmarks.mean(1).unbind(-1)
    half = 1.15 * eyes
    return torch.stack((x - half, y - 1.25 * half, x + half, y + 1.2 * half), -1)


def as_points(values: Sequence[Sequence[float]]) -> Points:
    """Five points as they stand in a file, as a value that can be compared."""
    return tuple((float(x), float(y)) for x, y in values)
