"""An attribute changed in a picture of any size: AttGAN looks at the face, the picture gets the difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..faces.alignment import invert, resample, similarity_transform
from ..resampling import bicubic, bilinear
from ..worlds import World
from .attgan_files import AttGAN
from .attgan_losses import label_planes

Classifier = Callable[[Tensor], Tensor]
"""Faces [B, 3, S, S] in [0, 1], framed as the editor's -> how sure it is of each attribute [B, n]."""

# Mean points of CelebA's aligned pictures in their middle 170 pixels, which AttGAN was trained on, over 170.
CELEBA_FRAME = torch.tensor(
    [[65.4, 87.2], [103.6, 87.1], [84.0, 110.7], [67.1, 128.1], [101.6, 128.0]]
).div(170.0)
_RIM = 0.05
STRONGEST = 2.5
"""The end of the published slide, an intensity of 2, in units of `edited`: the label's sign, four times as large as in
training; 1.5 is the published test intensity of 1."""


@dataclass(frozen=True, eq=False)
class AttributeEditor:
    """AttGAN with the frame it wants faces in.

    Args:
        attributes: names, in the order of the label planes.
        decode: (features of a face, labels in [0, 1] or beyond) -> face [B, 3, S, S] in [0, 1].
        classify: what steers the strength; part of the generator's training, so no judge of it.
        frame: five points [5, 2] as shares of the side.
    """

    name: str
    attributes: tuple[str, ...]
    size: int
    encode: Callable[[Tensor], Sequence[Tensor]]
    decode: Callable[[Sequence[Tensor], Tensor], Tensor]
    classify: Classifier
    frame: Tensor
    world: World

    @staticmethod
    def of(
        name: str, gan: AttGAN, classify: Classifier | None = None, frame: Tensor = CELEBA_FRAME
    ) -> AttributeEditor:
        """From a loaded AttGAN; without a classifier in the file one has to be given."""
        chosen = classify or (None if gan.classifier is None else classifier_of(gan))
        if chosen is None:
            raise FluxGuardError(
                f"{name} holds a generator without the classifier that it was trained with, so nothing can tell "
                "what a face shows.",
                "Give the whole checkpoint, with G and D, or another one as ‹give classifier›.",
            )
        return AttributeEditor(
            name,
            gan.shape.attributes,
            gan.shape.size,
            lambda faces: gan.generator.encode(faces * 2 - 1),
            lambda features, labels: (
                (gan.generator.decode(features, label_planes(labels.to(features[-1]))) + 1) / 2
            ),
            chosen,
            frame,
            gan.world,
        )


def classifier_of(gan: AttGAN) -> Classifier:
    """The classifier that the generator was trained with."""
    network = gan.classifier
    assert network is not None

    def classify(faces: Tensor) -> Tensor:
        features = network.conv(faces * 2 - 1).flatten(1)
        out: Tensor = network.fc_cls(features).sigmoid()
        return out

    return classify


@dataclass(frozen=True, eq=False)
class Framed:
    """A face cut as the editor wants it.

    Args:
        picture: [1, 3, H, W] in [0, 1].
        face: [1, 3, S, S].
        back: similarity [1, 2, 3] from the face's pixels to the picture's.
        features: of the face.
        mask: where the picture may change, [1, 1, H, W] in [0, 1].
    """

    picture: Tensor
    face: Tensor
    back: Tensor
    features: Sequence[Tensor]
    mask: Tensor


@torch.no_grad()
def framed(editor: AttributeEditor, picture: Tensor, points: Tensor, mask: Tensor | None) -> Framed:
    """Cut a face [1, 3, H, W] out by its five points [5, 2]; mask None lets all of the frame change."""
    back = _back(editor.frame, editor.size, points, picture)
    face = cut(editor, picture, points)
    where = picture.new_ones(1, 1, *picture.shape[-2:]) if mask is None else mask.to(picture)
    return Framed(picture, face, back, editor.encode(face), where)


def cut(editor: AttributeEditor, picture: Tensor, points: Tensor) -> Tensor:
    """A face as the editor wants it [1, 3, S, S]; what lies outside of the picture continues its border."""
    return cut_to(editor.frame, editor.size, picture, points)


def cut_to(frame: Tensor, side: int, picture: Tensor, points: Tensor) -> Tensor:
    """The same by a frame: five points [5, 2] as shares of the side."""
    back = _back(frame, side, points, picture)
    inside = resample(torch.ones_like(picture[:, :1]), back, side)
    seen = resample(picture, back, side) / inside.clamp_min(1e-3)
    edge = _border(picture, back, side)
    return torch.where(inside > 0.02, seen, edge).clamp(0, 1)


def _back(frame: Tensor, side: int, points: Tensor, picture: Tensor) -> Tensor:
    target = frame.to(picture) * side - 0.5
    return invert(similarity_transform(points.to(picture)[None], target[None]))


def _grid(matrix: Tensor, size: tuple[int, int], other: tuple[int, int]) -> Tensor:
    """Places in a picture of size `other`, in [-1, 1], for every pixel of one of `size`."""
    v, u = torch.meshgrid(
        torch.arange(size[0], device=matrix.device, dtype=matrix.dtype),
        torch.arange(size[1], device=matrix.device, dtype=matrix.dtype),
        indexing="ij",
    )
    xy = torch.stack((u, v), -1) @ matrix[0, :, :2].T + matrix[0, :, 2]
    half = xy.new_tensor([other[1] / 2, other[0] / 2])
    return ((xy + 0.5) / half - 1)[None]


def _border(picture: Tensor, back: Tensor, side: int) -> Tensor:
    """The nearest pixel of the picture for each of the frame's."""
    height, width = picture.shape[-2:]
    grid = _grid(back, (side, side), (height, width))
    inside = 1 - 1 / grid.new_tensor([width, height])
    return bilinear(picture, torch.minimum(torch.maximum(grid, -inside), inside))


@torch.no_grad()
def edited(editor: AttributeEditor, face: Framed, before: Tensor, after: Tensor) -> Tensor:
    """The picture [1, 3, H, W] with labels `after` [n] instead of `before` [n], the very same where they are equal.

    x + mask · up(G(x, after) - G(x, before)): only the difference is enlarged, so the picture keeps its own detail.
    Labels are 0 and 1 in training; beyond them, 1.5 for 1 and -0.5 for 0, lies the published test intensity.
    """
    if torch.equal(before, after):
        return face.picture.clone()
    change = editor.decode(face.features, after[None]) - editor.decode(face.features, before[None])
    change = change * _rim(editor.size).to(change)
    size = face.picture.shape[-2:]
    grid = _grid(invert(face.back), (size[0], size[1]), (editor.size, editor.size))
    # Enlarged smoothly first, then read where the pixels fall.
    larger = max(1, round(float(face.back[0, :, 0].norm())))
    enlarged = bilinear(bicubic(change, (larger * editor.size,) * 2, antialias=False), grid)
    return (face.picture + face.mask * enlarged).clamp(0, 1)


def _rim(side: int) -> Tensor:
    """[S, S] in [0, 1]: fades to 0 at the frame's edges."""
    ramp = ((torch.arange(side) + 0.5) / (_RIM * side)).clamp(max=1)
    one = torch.minimum(ramp, ramp.flip(0))
    return one[:, None] * one[None]


def labels_between(
    before: Mapping[str, float],
    targets: Mapping[str, float],
    strengths: Mapping[str, float],
    names: Sequence[str],
) -> Tensor:
    """Labels [n]: each target at its strength, 0 as before, 1 as trained, 1.5 the published test intensity."""
    values = []
    for name in names:
        start = before[name]
        # A target of a half is approached over the label's other side, which is where a half lies.
        goal = targets.get(name, start)
        end = 1.0 - start if goal == 0.5 else goal
        values.append(start + strengths.get(name, 1.0) * (end - start))
    return torch.tensor(values)
