"""Whether a picture is one of the renderer's portraits (or made from one), or a photo.

The miniature's own networks say so: on what they were trained for they are sure of the parts, find
the five points where a drawn face has them, and the parts they find are smoothly shaded. On a photo
they are not, whatever its light, sharpness, colour or size. The picture is looked at whole and
once more with the presumed face where portraits have it, its contrast stretched both times. Grey and
sepia make drawings look less sure, so how colourful the picture is counts as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FluxGuardError
from ..faces.alignment import invert, similarity_transform
from ..resampling import shrink
from ..worlds import World
from .faces import PORTRAIT_POINTS, SIDE, attribute_net, landmark_net, parser_net, view_at
from .world import reconstruct

NO_FACE = -2.0
"""Logit of the face finder below which nothing drawn is in the picture; portraits have -0.3 and more."""
_EYES, _NOSE, _MOUTH = {4, 5}, {10}, {11, 12, 13}
_PARTS = (_EYES, _EYES, _NOSE, _MOUTH, _MOUTH)
_NEAR, _SMALLEST = 2, 30

WEIGHTS: dict[str, float] = {
    "sure": 0.25,
    "sure near": 0.24,
    "misplaced": -14.1,
    "misplaced near": -20.7,
    "places": 2.73,
    "unsure": -1.63,
    "unsure near": -1.23,
    "shading": -0.86,
    "shading near": -1.03,
    "round trip": 2.19,
    "words": 6.8,
    "colours": -0.82,
    "bias": -3.43,
}
"""How much each clue counts, fitted on drawn portraits and on photos (`python -m training.mini worlds`)."""


def world_of(image: Tensor) -> World:
    """The world of a picture [3,H,W] or [1,3,H,W] in [0,1]."""
    return "drawn" if likeness_to_a_drawing(image) >= 0 else "photo"


def could_be_drawn(image: Tensor) -> bool:
    """Whether anything in the picture could be a drawn portrait's face."""
    return likeness_to_a_drawing(image) > -math.inf


def portrait_of(picture: Tensor, landmarks: Tensor) -> Tensor:
    """A face of a picture [1,3,H,W] as a portrait shows it [1,3,128,128]; landmarks [5,2]."""
    back = invert(similarity_transform(landmarks[None].float().cpu(), PORTRAIT_POINTS[None]))
    return view_at(picture, back)


def likeness_to_a_drawing(image: Tensor) -> float:
    """How much a picture looks like the renderer's to its own networks; from 0 on it counts as drawn."""
    clues = clues_of(image)
    return -math.inf if clues is None else weighed(clues, WEIGHTS)


def weighed(clues: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The clues' sum with their weights, and the weights' "bias"."""
    return weights["bias"] + sum(weights[name] * value for name, value in clues.items())


@torch.no_grad()
def clues_of(image: Tensor) -> dict[str, float] | None:
    """What the networks make of a picture [3,H,W], by the names of `WEIGHTS`; None where no drawn face is in it."""
    if image.ndim == 4 and len(image) == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[0] != 3:
        raise FluxGuardError(f"Expected a picture [3, H, W], got {list(image.shape)}.")
    view, inside = _whole(image.detach().float().cpu())
    points, sure = landmark_net()(view)
    matrix = similarity_transform(points, PORTRAIT_POINTS[None])
    near = view_at(view, invert(matrix))
    points_near, sure_near = landmark_net()(near)
    if max(float(sure), float(sure_near)) < NO_FACE:
        return None
    first = _clues(view, points[0], inside)
    second = _clues(near, points_near[0], torch.ones_like(inside))
    words = torch.stack(
        [t.softmax(1).amax(1)[0].clamp_max(0.9999).log() for t in attribute_net()(view).values()]
    )
    return {
        "sure": float(sure),
        "sure near": float(sure_near),
        "misplaced": _misplaced(_apply(matrix, points[0])),
        "misplaced near": _misplaced(points_near[0]),
        "places": first["places"],
        "unsure": first["unsure"],
        "unsure near": second["unsure"],
        "shading": first["shading"],
        "shading near": second["shading"],
        "round trip": _round_trip(view, inside),
        "words": float(words.mean()),
        "colours": math.log(_colourful(view[0], inside)),
    }


def _whole(image: Tensor) -> tuple[Tensor, Tensor]:
    """The picture [1,3,128,128] with its contrast stretched and its border repeated; where it is."""
    longest = max(image.shape[-2:])
    height, width = (max(1, round(side * SIDE / longest)) for side in image.shape[-2:])
    size = (height, width)
    small = shrink(image[None], size).clamp(0, 1)
    low, high = (small.flatten().quantile(share) for share in (0.01, 0.99))
    small = ((small - low) / (high - low).clamp_min(0.02)).clamp(0, 1)
    top, left = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    pads = (left, SIDE - size[1] - left, top, SIDE - size[0] - top)
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[top : top + size[0], left : left + size[1]] = True
    return F.pad(small, pads, mode="replicate"), inside


def _apply(matrix: Tensor, points: Tensor) -> Tensor:
    return points @ matrix[0, :, :2].T + matrix[0, :, 2]


def _misplaced(points: Tensor) -> float:
    """Mean distance of five points from a drawn face's, in its eyes' distances; at most 0.3."""
    return min(0.3, float((points - PORTRAIT_POINTS).norm(dim=1).mean()) / 40)


def _clues(view: Tensor, points: Tensor, inside: Tensor) -> dict[str, float]:
    """What the parser makes of a view: how unsure it is, how smooth its parts are, where points fall."""
    shares = parser_net()(view).float()[0].softmax(0)
    labels = shares.argmax(0)
    entropy = -(shares * shares.clamp_min(1e-8).log()).sum(0)[inside].mean()
    return {
        "unsure": math.log(float(entropy) + 0.01),
        "shading": math.log(max(1e-3, _unexplained(view[0], labels, inside))),
        "places": _in_place(labels, points),
    }


def _unexplained(view: Tensor, labels: Tensor, inside: Tensor) -> float:
    """Share of the picture's variance that a quadratic of the place in each part does not explain."""
    axis = torch.linspace(-1, 1, SIDE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    basis = torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y], -1)
    left_over = 0.0
    for label in labels[inside].unique():
        where = (labels == label) & inside
        if int(where.sum()) >= _SMALLEST:
            left_over += _residual(basis[where], view[:, where].T)
    return min(1.0, left_over / (_variation(view, inside) + 1e-3))


def _residual(basis: Tensor, values: Tensor) -> float:
    square = basis.T @ basis + 1e-4 * torch.eye(basis.shape[1])
    fitted = basis @ torch.linalg.solve(square, basis.T @ values)
    return float((values - fitted).square().sum())


def _variation(view: Tensor, inside: Tensor) -> float:
    pixels = view[:, inside]
    return float((pixels - pixels.mean(1, keepdim=True)).square().sum())


def _in_place(labels: Tensor, points: Tensor) -> float:
    """Share of the five points that lie on, or beside, the part they belong to."""
    hits = 0
    for (x, y), part in zip(points.round().long().clamp(0, SIDE - 1).tolist(), _PARTS, strict=True):
        rows = slice(max(0, y - _NEAR), y + _NEAR + 1)
        columns = slice(max(0, x - _NEAR), x + _NEAR + 1)
        hits += bool(part & set(labels[rows, columns].unique().tolist()))
    return hits / len(_PARTS)


def _colourful(view: Tensor, inside: Tensor) -> float:
    """How far a place's colours are apart on average; .01 for a grey picture, which the other clues take for a photo's."""
    pixels = view[:, inside]
    return float((pixels.amax(0) - pixels.amin(0)).mean()) + 0.01


def _round_trip(view: Tensor, inside: Tensor) -> float:
    """Logarithm of the share of the variance that the miniature's autoencoder loses."""
    lost = (reconstruct(view) - view)[0][:, inside].square().sum()
    return math.log(max(1e-4, float(lost) / (_variation(view[0], inside) + 1e-3)))
