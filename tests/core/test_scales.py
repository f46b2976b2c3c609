"""Detectors see large photos at the scale they were made for, and small faces in them through tiles."""

from __future__ import annotations

import torch
from torch import Tensor

from fluxguard_core.faces.face import Face
from fluxguard_core.faces.scales import Scaled, distinct, tiles_of


class SquareFinder:
    """Finds white squares of 10 to 40 pixels a side, as a detector finds faces of its anchors' sizes."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def __call__(self, image: Tensor) -> list[Face]:
        self.seen.append((image.shape[-2], image.shape[-1]))
        bright = (image[0] > 0.5).nonzero()
        if not len(bright):
            return []
        (y0, x0), (y1, x1) = bright.amin(0).tolist(), bright.amax(0).tolist()
        if not 10 <= x1 + 1 - x0 <= 40 or not 10 <= y1 + 1 - y0 <= 40:
            return []
        points = torch.tensor([[float(x0), float(y0)]]).expand(5, 2)
        return [Face((x0, y0, x1 + 1, y1 + 1), points, (x1 - x0) / 40)]


def square(size: tuple[int, int], left: int, top: int, side: int) -> Tensor:
    picture = torch.zeros(3, *size)
    picture[:, top : top + side, left : left + side] = 1
    return picture


def test_faces_of_every_size_are_found_where_they_are() -> None:
    for side in (12, 30, 60, 120, 240):
        finder = SquareFinder()
        for left, top in ((3, 5), (440, 300), (1300, 700)):
            picture = square((1000, 1600), left, min(top, 1000 - side), min(side, 1600 - left))
            faces = Scaled(finder, side=256)(picture)
            assert len(faces) == 1, (side, left, top)
            x0, y0, x1, _ = faces[0].box
            assert abs(x0 - left) <= 6 and abs(y0 - min(top, 1000 - side)) <= 6
            assert abs(x1 - x0 - side) <= 12
            assert faces[0].landmarks is not None
            assert (faces[0].landmarks[0] - torch.tensor([x0, y0])).abs().max() <= 6
        assert max(max(shape) for shape in finder.seen) <= 256


def test_a_small_picture_is_shown_as_it_is() -> None:
    finder, picture = SquareFinder(), square((200, 256), 40, 50, 20)
    assert Scaled(finder, side=256)(picture)[0].box == (40, 50, 60, 70)
    assert finder.seen == [(200, 256)]


def test_a_photo_of_any_size_takes_a_bounded_number_of_looks() -> None:
    finder = SquareFinder()
    Scaled(finder, side=64, tiles=30)(torch.zeros(3, 3000, 200))
    assert 1 < len(finder.seen) <= 31


def test_tiles_cover_everything_and_overlap() -> None:
    for height, width in ((1000, 1600), (256, 257), (100, 900)):
        covered = torch.zeros(height, width, dtype=torch.int)
        for left, top, right, bottom in tiles_of(height, width, 256):
            assert right - left <= 256 and bottom - top <= 256
            covered[top:bottom, left:right] += 1
        assert int(covered.min()) >= 1
        assert int((covered > 1).sum()) > 0.2 * (covered.numel() - 256 * 256)


def test_one_face_seen_twice_counts_once() -> None:
    weak, strong = Face((0, 0, 40, 40), None, 0.5), Face((4, 4, 44, 44), None, 0.9)
    other = Face((100, 0, 140, 40), None, 0.7)
    assert distinct([weak, strong, other]) == [strong, other]
