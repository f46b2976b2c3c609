"""Region shapes: on a label map drawn by hand, on landmarks alone, and on rendered portraits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.portrait_spec import random_spec, with_attributes
from fluxguard_core.mini.renderer import render
from fluxguard_core.regions import (
    RULES,
    EmptyMask,
    NoFace,
    face_frame,
    five_points,
    labels_from_landmarks,
    region_mask,
    regions_mask,
)
from fluxguard_core.regions.geometry import (
    _MESH_BROWS,
    _MESH_EYES,
    _MESH_LIPS,
    _MESH_MOUTH,
    _MESH_NOSE,
    _MESH_OVAL,
    polygon,
)
from fluxguard_core.regions.morphology import dilate, erode, gaussian_blur

EYE = 16.0  # half the distance of the eyes in the hand-made face, pixels


def hand_made(turn: float = 0.0, size: int = 128) -> tuple[Tensor, Tensor]:
    """Labels [size,size] of a schematic head turned by `turn` radians, and its five landmarks."""
    axis = torch.arange(size, dtype=torch.float32) - size / 2
    x, y = axis.view(1, -1), axis.view(-1, 1)
    u = math.cos(turn) * x + math.sin(turn) * y
    v = -math.sin(turn) * x + math.cos(turn) * y
    parts = (
        (17, 0, -14, 38, 38),
        (16, 0, 66, 56, 18),
        (14, 0, 42, 14, 16),
        (1, 0, 8, 31, 38),
        (2, -EYE, -9, 8, 2),
        (3, EYE, -9, 8, 2),
        (4, -EYE, 0, 6, 3),
        (5, EYE, 0, 6, 3),
        (10, 0, 14, 5, 9),
        (12, 0, 30, 10, 3),
        (13, 0, 34, 10, 3),
        (11, 0, 32, 7, 1),
    )
    labels = torch.zeros(size, size, dtype=torch.uint8)
    for label, cu, cv, a, b in parts:
        labels[((u - cu) / a) ** 2 + ((v - cv) / b) ** 2 <= 1] = label
    points = torch.tensor([[-EYE, 0], [EYE, 0], [0, 20], [-10, 32], [10, 32]])
    turned = torch.stack(
        (
            math.cos(turn) * points[:, 0] - math.sin(turn) * points[:, 1],
            math.sin(turn) * points[:, 0] + math.cos(turn) * points[:, 1],
        ),
        1,
    )
    return labels, turned + size / 2


def test_polygon_counts_the_pixels_of_a_square_and_a_triangle() -> None:
    square = torch.tensor([[1.5, 1.5], [5.5, 1.5], [5.5, 4.5], [1.5, 4.5]])
    assert int(polygon(square, 8, 8).sum()) == 12
    triangle = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    assert abs(int(polygon(triangle, 100, 100).sum()) / 5000 - 1) < 0.02


def test_morphology_against_its_definition() -> None:
    point = torch.zeros(9, 9, dtype=torch.bool)
    point[4, 4] = True
    grown = dilate(point, 4)
    assert grown.dtype == torch.bool and int(grown.sum()) == 25
    assert torch.equal(erode(grown, 4), point)
    assert int(dilate(point, 0.2).sum()) == 9
    assert torch.equal(dilate(point, 0), point)
    impulse = point.float()[None, None]
    blurred = gaussian_blur(impulse, 1.0)
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-5)
    assert float(blurred[0, 0, 4, 4] / blurred[0, 0, 4, 5]) == pytest.approx(
        math.exp(0.5), rel=1e-4
    )


@pytest.mark.parametrize("turn", [0.0, 0.3, -0.3])
@pytest.mark.parametrize("with_landmarks", [True, False])
def test_frame_turns_with_the_head(turn: float, with_landmarks: bool) -> None:
    labels, points = hand_made(turn)
    frame = face_frame(labels, points if with_landmarks else None)
    for point, (u, v) in zip(points, [(-0.5, 0), (0.5, 0), (0, 0.63)], strict=False):
        column, row = (round(value) for value in point.tolist())
        assert float(frame.u[row, column]) == pytest.approx(u, abs=0.05)
        assert float(frame.v[row, column]) == pytest.approx(v, abs=0.05)
    assert frame.chin == pytest.approx(46 / (2 * EYE), abs=0.1)
    assert frame.nose < frame.mouth_top < frame.mouth_bottom < frame.chin


def test_every_region_of_a_whole_head_has_pixels() -> None:
    labels, points = hand_made()
    labels[(labels == 17) & (torch.arange(128) < 30).view(1, -1)] = 7
    for region in RULES:
        mask = region_mask(region, labels, points)
        assert mask.shape == labels.shape and mask.dtype == torch.bool, region
        assert 0 < int(mask.sum()) < 0.8 * labels.numel(), region


def test_parts_lie_where_they_belong() -> None:
    labels, points = hand_made()
    skin = region_mask("skin", labels, points)
    assert torch.equal(skin, (labels == 1) | (labels == 10))
    eyes = region_mask("eyes", labels, points)
    assert eyes[(labels == 4) | (labels == 5)].all() and not eyes[labels == 12].any()
    lips = region_mask("lips", labels, points)
    assert lips[labels == 12].all() and lips[labels == 13].all()
    chin, forehead = region_mask("chin", labels, points), region_mask("forehead", labels, points)
    rows = torch.arange(128).view(-1, 1).expand(128, 128)
    assert rows[chin].min() > rows[labels == 10].max()
    assert rows[forehead].max() < rows[(labels == 2) | (labels == 3)].min() + 2
    cheeks = region_mask("cheeks", labels, points)
    assert not (cheeks & ((labels == 10) | (labels == 12) | (labels == 4))).any()
    assert cheeks[:, :55].any() and cheeks[:, 73:].any()
    pupils = region_mask("pupils", labels, points)
    assert int(pupils.sum()) < 0.6 * int(((labels == 4) | (labels == 5)).sum())


def test_a_larger_face_gets_larger_margins() -> None:
    """The pixel sizes of the rules follow the face: shares of the frame do not depend on its size."""
    labels, _ = hand_made()
    large = labels.repeat_interleave(4, 0).repeat_interleave(4, 1)
    for region in ("eyes", "eyebrows", "lips", "hair", "eyeshadow", "beard", "hat"):
        small_share = float(region_mask(region, labels).float().mean())
        large_share = float(region_mask(region, large).float().mean())
        assert large_share == pytest.approx(small_share, rel=0.35, abs=0.01), region


def test_added_things_are_masked_where_they_will_be() -> None:
    labels, points = hand_made()
    assert not torch.isin(labels, torch.tensor([6, 18], dtype=torch.uint8)).any()
    glasses = region_mask("eyeglasses", labels, points)
    assert glasses[(labels == 4) | (labels == 5)].all()
    hat = region_mask("hat", labels, points)
    assert hat[:30][labels[:30] == 17].all() and hat[:20, 64].any() and not hat[labels == 4].any()
    bald = labels.clone()
    bald[labels == 17] = 0
    assert region_mask("bangs", bald, points)[30:40, 64].any()
    assert region_mask("hairstyle", bald, points)[20, 64]


def test_empty_region_and_missing_face_say_what_to_do() -> None:
    labels, points = hand_made()
    labels[labels == 17] = 0
    with pytest.raises(EmptyMask, match=r"'hair'.*Name another region"):
        region_mask("hair", labels, points)
    with pytest.raises(NoFace, match="give a mask"):
        region_mask("skin", torch.zeros(32, 32, dtype=torch.uint8))
    with pytest.raises(FluxGuardError, match="Unknown region 'tail'"):
        region_mask("tail", labels)
    with pytest.raises(EmptyMask):
        regions_mask((), labels)
    with pytest.raises(FluxGuardError, match="one picture"):
        region_mask("skin", labels[None])


def ring(count: int, cx: float, cy: float, a: float, b: float) -> Tensor:
    angle = torch.arange(count) * (2 * math.pi / count)
    return torch.stack((cx + a * angle.cos(), cy + b * angle.sin()), 1)


def sixty_eight() -> Tensor:
    """iBUG landmarks of the hand-made face."""
    points = torch.zeros(68, 2)
    angle = torch.linspace(math.pi, 0, 17)
    points[:17] = torch.stack((64 + 31 * angle.cos(), 66 + 44 * angle.sin()), 1)
    for first, centre in ((17, 48.0), (22, 80.0)):
        points[first : first + 5] = torch.stack(
            (torch.linspace(centre - 8, centre + 8, 5), torch.full((5,), 55.0)), 1
        )
    points[27:31] = torch.stack((torch.full((4,), 64.0), torch.linspace(64, 84, 4)), 1)
    points[31:36] = torch.stack((torch.linspace(59, 69, 5), torch.full((5,), 86.0)), 1)
    points[36:42], points[42:48] = ring(6, 48, 64, 6, 3), ring(6, 80, 64, 6, 3)
    points[48:60], points[60:68] = ring(12, 64, 96, 10, 5), ring(8, 64, 96, 7, 1)
    points[48:60] = points[48:60].roll(6, 0)
    return points


def test_mediapipe_points_draw_the_same_face() -> None:
    """Only the outlines' points are placed; all others lie outside the picture."""
    points = torch.full((478, 2), -500.0)
    for indices, outline in (
        (_MESH_OVAL, ring(36, 64, 72, 31, 38)),
        (_MESH_NOSE, ring(12, 64, 78, 5, 9)),
        (_MESH_EYES[0], ring(16, 48, 64, 6, 3)),
        (_MESH_EYES[1], ring(16, 80, 64, 6, 3)),
        (_MESH_BROWS[0], ring(10, 48, 55, 8, 2)),
        (_MESH_BROWS[1], ring(10, 80, 55, 8, 2)),
        (_MESH_LIPS, ring(20, 64, 96, 10, 5)),
        (_MESH_MOUTH, ring(20, 64, 96, 7, 1)),
    ):
        points[list(indices)] = outline
    points[[33, 133, 362, 263]] = torch.tensor([[42.0, 64], [54, 64], [74, 64], [86, 64]])
    points[[1, 61, 291]] = torch.tensor([[64.0, 84], [54, 96], [74, 96]])
    assert torch.allclose(five_points(points)[:2], torch.tensor([[48.0, 64], [80, 64]]))
    drawn, true = labels_from_landmarks(points, 128, 128), hand_made()[0]
    for region in ("eyes", "eyebrows", "lips", "nose", "eyeglasses", "skin"):
        mine, theirs = region_mask(region, true), region_mask(region, drawn, points)
        overlap = float((mine & theirs).sum() / (mine | theirs).sum())
        assert overlap > 0.5, (region, overlap)


def test_landmarks_alone_draw_the_face_but_not_the_hair() -> None:
    points = sixty_eight()
    five = five_points(points)
    assert torch.allclose(five[:2], torch.tensor([[48.0, 64.0], [80.0, 64.0]]), atol=1e-4)
    assert float(five[3, 0]) < float(five[4, 0])
    labels = labels_from_landmarks(points, 128, 128)
    true, _ = hand_made()
    for region in ("eyes", "lips", "nose", "beard", "eyeglasses", "cheeks", "hat", "skin"):
        mine, drawn = region_mask(region, true), region_mask(region, labels, points)
        overlap = float((mine & drawn).sum() / (mine | drawn).sum())
        assert overlap > 0.35, (region, overlap)
    for region in ("hair", "background", "clothes"):
        with pytest.raises(EmptyMask):
            region_mask(region, labels, points)


def test_landmark_errors() -> None:
    with pytest.raises(FluxGuardError, match="N = 5"):
        five_points(torch.zeros(7, 2))
    with pytest.raises(FluxGuardError, match="68 or 478"):
        labels_from_landmarks(torch.zeros(5, 2), 64, 64)
    with pytest.raises(NoFace, match="outside the picture"):
        labels_from_landmarks(sixty_eight() + 1000, 64, 64)


EDITS = [
    ("eyeglasses", {"eyeglasses": "no"}, {"eyeglasses": "yes"}, 0.97),
    ("beard", {"beard": "no"}, {"beard": "yes"}, 0.98),
    ("hat", {"hat": "none"}, {"hat": "red"}, 0.95),
    ("earrings", {"earrings": "no"}, {"earrings": "yes"}, 0.9),
    ("smile", {"smile": "no"}, {"smile": "yes"}, 0.97),
    ("lips", {"lipstick": "none"}, {"lipstick": "red"}, 0.98),
    ("eyeshadow", {"eyeshadow": "none"}, {"eyeshadow": "blue"}, 0.88),
    (
        "hairstyle",
        {"hair_style": "bald", "hat": "none"},
        {"hair_style": "long", "hat": "none"},
        0.94,
    ),
    (
        "hair",
        {"hair_style": "long", "hair_colour": "black", "beard": "no"},
        {"hair_style": "long", "hair_colour": "blond", "beard": "no"},
        0.85,
    ),
    ("background", {"background": "white"}, {"background": "blue"}, 0.97),
    ("clothes", {"clothes": "white"}, {"clothes": "red"}, 0.97),
]


@pytest.mark.parametrize(("region", "before", "after", "least"), EDITS, ids=[e[0] for e in EDITS])
def test_the_mask_of_an_edit_covers_what_the_edit_changes(
    region: str, before: dict[str, str], after: dict[str, str], least: float
) -> None:
    """Rendered before and after: nearly all change lies in the mask drawn on the picture before."""
    for seed in range(40, 46):
        spec = random_spec(seed)
        first = render(with_attributes(spec, **before))
        second = render(with_attributes(spec, **after))
        change = (first.image - second.image).abs().sum(0)
        for landmarks in (first.landmarks, None):
            mask = region_mask(region, first.labels, landmarks)
            covered = float(change[mask].sum() / change.sum())
            assert covered >= least, (seed, covered)
            assert float(mask.float().mean()) < 0.75
