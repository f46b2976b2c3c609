"""A detector over large photos: at the scale it was made for, and in tiles where small faces hide."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..resampling import shrink
from .face import Face, FaceFinder

_OVERLAP = 0.25  # of a tile's side, which a face that the tiles are for must fit into
_SAME = 0.4  # boxes that share more of what both cover are one face


@dataclass(frozen=True, eq=False)
class Scaled:
    """A finder for photos of any size, made of one that knows faces of a certain size.

    The photo is looked at whole, shrunk to ``side``, then at twice that scale in tiles, and so on up to its own.
    A tile's finds of more than a quarter of its side belong to the coarser look, which sees them whole.

    Args:
        find: the detector itself.
        side: longest side in pixels of what it is shown.
        tiles: most tiles a photo; finer looks that would need more are left out.
    """

    find: FaceFinder
    side: int = 1024
    tiles: int = 120

    def __call__(self, image: Tensor) -> list[Face]:
        """Faces of a picture [3, H, W] in [0, 1], in its pixels, best first."""
        height, width = image.shape[-2:]
        longest = max(height, width)
        if longest <= self.side:
            return self.find(image)
        scale = self.side / longest
        found = [face.moved(0, 0, 1 / scale) for face in self.find(_shrunk(image, scale))]
        left = self.tiles
        while scale < 1:
            scale = min(1.0, 2 * scale)
            grid = list(tiles_of(round(height * scale), round(width * scale), self.side))
            left -= len(grid)
            if left < 0:
                break
            whole = _shrunk(image, scale)
            found += [face for tile in grid for face in self._in_tile(whole, tile, scale)]
        return distinct(found)

    def _in_tile(self, whole: Tensor, tile: tuple[int, int, int, int], scale: float) -> list[Face]:
        left, top, right, bottom = tile
        faces = self.find(whole[:, top:bottom, left:right])
        small = [face for face in faces if _longer_side(face) <= self.side * _OVERLAP]
        placed = [face.moved(-left, -top) for face in small]
        size = (whole.shape[-1], whole.shape[-2])
        return [face.moved(0, 0, 1 / scale) for face in placed if not _cut(face, tile, size)]


def tiles_of(height: int, width: int, side: int) -> Iterator[tuple[int, int, int, int]]:
    """Tiles (left, top, right, bottom) of at most ``side``, which share a quarter of it with their neighbours."""
    for top in _starts(height, side):
        for left in _starts(width, side):
            yield left, top, min(left + side, width), min(top + side, height)


def distinct(faces: Sequence[Face]) -> list[Face]:
    """Each face once, best first: of finds that cover each other the one with the higher score."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(shared(face, other) <= _SAME for other in kept):
            kept.append(face)
    return kept


def shared(one: Face, other: Face) -> float:
    """Intersection over union of two faces' boxes, 0 to 1."""
    x0, y0 = max(one.box[0], other.box[0]), max(one.box[1], other.box[1])
    x1, y1 = min(one.box[2], other.box[2]), min(one.box[3], other.box[3])
    common = max(0.0, x1 - x0) * max(0.0, y1 - y0)
    return common / max(one.area + other.area - common, 1e-9)


def _cut(face: Face, tile: tuple[int, int, int, int], size: tuple[int, int]) -> bool:
    """Whether a face reaches an edge of its tile where the picture goes on: the next tile shows it whole."""
    (x0, y0, x1, y1), (left, top, right, bottom) = face.box, tile
    before = (left > 0 and x0 < left + 1) or (top > 0 and y0 < top + 1)
    return before or (right < size[0] and x1 > right - 1) or (bottom < size[1] and y1 > bottom - 1)


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    count = math.ceil((length - side) / (side * (1 - _OVERLAP))) + 1
    return [round(number * (length - side) / (count - 1)) for number in range(count)]


def _shrunk(image: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return image
    size = (max(1, round(image.shape[-2] * scale)), max(1, round(image.shape[-1] * scale)))
    smaller = shrink(image[None].float(), size)
    return smaller[0].clamp(0, 1)


def _longer_side(face: Face) -> float:
    x0, y0, x1, y1 = face.box
    return max(x1 - x0, y1 - y0)
