"""Faces for a cloak's training, all in one frame, and what is trained against them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..evaluate.haarpsi import haarpsi
from ..faces.alignment import align
from ..recognition.ensemble import Ensemble
from ..resampling import shrink
from .attribute_edit import CELEBA_FRAME, AttributeEditor
from .cloak_targets import Deepfake
from .cloak_training import Recognise


def eyes_in(side: int, frame: Tensor = CELEBA_FRAME) -> float:
    """Distance of the eyes in pixels in pictures of so many, framed so."""
    return side * float((frame[1] - frame[0]).norm())


def working_side(size: tuple[int, int], points: Tensor, eyes: float) -> int:
    """Longest side at which a picture's eyes are as far apart as in a cloak's training; never more than it has."""
    apart = float((points[1] - points[0]).norm())
    return min(max(size), max(32, round(max(size) * eyes / max(apart, 1.0))))


def attribute_fake(editor: AttributeEditor) -> Deepfake:
    """An AttGAN as a deepfake model: condition k turns the k-th attribute into its opposite.

    Faces are expected in the editor's own frame; other sizes are shrunk to its own.
    """

    def make(pictures: Tensor, conditions: Tensor) -> Tensor:
        faces = _sized(pictures, editor.size)
        with torch.no_grad():
            labels = (editor.classify(faces) > 0.5).to(faces)
        turned = F.one_hot(conditions, len(editor.attributes)).to(faces)
        return editor.decode(editor.encode(faces), labels + turned - 2 * labels * turned)

    return Deepfake(editor.name, len(editor.attributes), make)


def _sized(pictures: Tensor, side: int) -> Tensor:
    if pictures.shape[-1] == side:
        return pictures
    if pictures.shape[-1] < side:
        return F.interpolate(pictures, (side, side), mode="bilinear")
    return shrink(pictures, (side, side))


def recognise_in_frame(ensemble: Ensemble, frame: Tensor = CELEBA_FRAME) -> Recognise:
    """How alike the attacked recognisers find cloaked and plain faces of one frame [B], in the mean."""

    def alike(cloaked: Tensor, plain: Tensor) -> Tensor:
        points = (frame * plain.shape[-1] - 0.5).to(plain)[None]
        cosines = []
        for encoder in ensemble.attacked:
            with torch.no_grad():
                before = encoder(align(plain, points, encoder.crop))
            cosines.append((encoder(align(cloaked, points, encoder.crop)) * before).sum(1))
        return torch.stack(cosines).mean(0)

    return alike


def difference_seen(cloaked: Tensor, plain: Tensor) -> Tensor:
    """1 - HaarPSI [B]: what of a cloak can be seen."""
    return 1 - haarpsi(cloaked, plain)


Pictures = Callable[[int, torch.Generator], Tensor]


def drawn_from(faces: Tensor, batch: int) -> Pictures:
    """Batches of faces [N, 3, S, S] uint8, mirrored at random."""

    def draw(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(0, len(faces), (batch,), generator=generator)
        chosen = faces[rows].float() / 255
        turned = torch.rand(batch, generator=generator) < 0.5
        return torch.where(turned[:, None, None, None], chosen.flip(-1), chosen)

    return draw
