"""Faces whose five points stand in a file: found once, by whatever detector, and kept.

    {"anna/01.jpg": {"size": [768, 1024], "points": [[x, y], [x, y], [x, y], [x, y], [x, y]]}}

Names are those of the pictures, with as many folders as it takes to tell them apart. `points` are the
viewer-left eye, the other eye, the nose's tip and the mouth's corners in pixels; `size` is the width and
height that they were found at, and `box` may say where the face's box is. Several faces are a list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..worlds import knows
from .detectors import face_from_points
from .face import Face, FaceFinder


@dataclass(frozen=True, eq=False)
class PointsFile:
    """The faces of many pictures by name; `on` gives the finder for one of them."""

    path: Path
    faces: Mapping[str, tuple[Face, ...]]
    sizes: Mapping[str, tuple[int, int] | None]

    def on(self, picture: Path) -> FaceFinder:
        """The finder for one picture's file; FluxGuardError where the file does not list it."""
        parts = picture.absolute().as_posix().split("/")
        for count in range(len(parts), 0, -1):
            name = "/".join(parts[-count:])
            if name in self.faces:
                return self._finder(name)
        raise FluxGuardError(
            f"{self.path.name} lists no points for {picture.name}; it lists {len(self.faces)} pictures, "
            f"such as {', '.join(list(self.faces)[:2])}."
        )

    def _finder(self, name: str) -> FaceFinder:
        known, size = self.faces[name], self.sizes[name]

        @knows(None)
        def find(image: Tensor) -> list[Face]:
            height, width = image.shape[-2:]
            if size is None:
                return list(known)
            return [_scaled(face, width / size[0], height / size[1]) for face in known]

        return find


def read_points(path: str | Path) -> PointsFile:
    """Read a points file; FluxGuardError names the picture whose entry is no face."""
    file = Path(path)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FluxGuardError(f"{file} is no readable JSON file of points ({error}).") from error
    if not isinstance(document, dict) or not document:
        raise FluxGuardError(f"{file} is no list of pictures with points: expected a JSON object.")
    faces: dict[str, tuple[Face, ...]] = {}
    sizes: dict[str, tuple[int, int] | None] = {}
    for name, entry in document.items():
        rows = entry if isinstance(entry, list) else [entry]
        try:
            faces[name] = tuple(_face(row) for row in rows)
            sizes[name] = _size(rows[0]) if rows else None
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise FluxGuardError(
                f"{file.name}: {name[:80]!r} is no face ({error}); expected five points [[x, y], ...] under "
                '"points", and "size" as [width, height].'
            ) from error
    return PointsFile(file, faces, sizes)


def _face(row: Mapping[str, Any]) -> Face:
    points = torch.tensor(row["points"], dtype=torch.float32)
    if tuple(points.shape) != (5, 2):
        raise ValueError(f"points of shape {list(points.shape)}")
    face = face_from_points(points)
    if "box" not in row:
        return face
    left, top, right, bottom = (float(value) for value in row["box"])
    return Face((left, top, right, bottom), points, 1.0)


def _size(row: Mapping[str, Any]) -> tuple[int, int] | None:
    if "size" not in row:
        return None
    width, height = (int(value) for value in row["size"])
    if width < 1 or height < 1:
        raise ValueError(f"size {width} x {height}")
    return width, height


def _scaled(face: Face, x: float, y: float) -> Face:
    if x == y == 1:
        return face
    left, top, right, bottom = face.box
    points = None if face.landmarks is None else face.landmarks * torch.tensor([x, y])
    return Face((left * x, top * y, right * x, bottom * y), points, face.score)


FinderFor = Callable[[Path], FaceFinder]
"""A picture's file -> how faces are found in it."""
