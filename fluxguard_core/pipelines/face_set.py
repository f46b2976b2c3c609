"""Photos of people in folders with their landmarks: who shows whom, what strangers look like to a recogniser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FluxGuardError
from ..evaluate.likeness import EYES
from ..faces.alignment import align
from ..pictures.files import read_picture
from ..recognition.encoder import FaceEncoder
from ..recognition.thresholds import calibrate, spread_of, stranger_cosines
from ..resampling import bicubic

_SIDE = 256  # of a working crop, in which the eyes lie ``EYES`` apart


@dataclass(frozen=True, eq=False)
class FacePhoto:
    """One photo: its name (folder/file), the person it shows, the five points [5, 2] in pixels."""

    path: Path
    name: str
    person: str
    points: Tensor

    @property
    def eyes(self) -> float:
        """Pixels between the eyes; in a profile, what the way to the mouth makes of them."""
        level = (self.points[1] - self.points[0]).norm()
        upright = (self.points[3:].mean(0) - self.points[:2].mean(0)).norm()
        return max(float(level), 0.9 * float(upright))

    def read(self) -> Tensor:
        """The photo [1, 3, H, W] in [0, 1]."""
        return read_picture(self.path).rgb


def read_face_set(folder: Path, points: Path) -> list[FacePhoto]:
    """Photos in sub-folders, one a person, with the points that a JSON file lists.

    Args:
        points: {"PERSON/FILE": {"points": [[x, y] five times]}}; photos that it does not name are left out.
    """
    try:
        listed = json.loads(points.read_text(encoding="utf-8"))
        photos = [
            FacePhoto(
                folder / name, name, name.split("/")[0], torch.tensor(entry["points"]).float()
            )
            for name, entry in listed.items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FluxGuardError(
            f'Expected {points} to be JSON like {{"person/photo.jpg": {{"points": [[x, y], ...]}}}} '
            f"({type(error).__name__}: {error})."
        ) from error
    wrong = [photo for photo in photos if tuple(photo.points.shape) != (5, 2)]
    if wrong:
        raise FluxGuardError(f"Expected five points (x, y) of {wrong[0].name} in {points}.")
    return [photo for photo in photos if photo.path.is_file()]


@torch.no_grad()
def embed_set(encoder: FaceEncoder, photos: Sequence[FacePhoto]) -> Tensor:
    """Unit vectors [N, D] of the photos' faces."""
    rows = [encoder(align(photo.read(), photo.points[None], encoder.crop))[0] for photo in photos]
    return torch.stack(rows)


def known_by(encoder: FaceEncoder, embeddings: Tensor, photos: Sequence[FacePhoto]) -> FaceEncoder:
    """The encoder with a threshold and the strangers' figures measured on these photos, where it has none."""
    people = [photo.person for photo in photos]
    cosines = stranger_cosines(embeddings, people)
    source = f"these photos: {len(set(people))} people, {cosines.numel()} pairs of strangers"
    thresholds = encoder.thresholds or calibrate(embeddings, source, people=people, fars=(1e-2,))
    by_person = [
        embeddings[[i for i, other in enumerate(people) if other == person]].mean(0)
        for person in dict.fromkeys(people)
    ]
    return replace(
        encoder,
        thresholds=thresholds,
        strangers=encoder.strangers or spread_of(cosines, source),
        mean_face=F.normalize(torch.stack(by_person).mean(0), dim=0),
    )


def working_crop(photo: FacePhoto) -> tuple[Tensor, Tensor]:
    """A square of 256 pixels around the face [1, 3, 256, 256] on the grid of 1/255, and the points [5, 2] in it."""
    picture = photo.read()
    height, width = picture.shape[-2:]
    side = min(round(_SIDE / EYES * photo.eyes), height, width)
    x, y = photo.points.mean(0).tolist()
    left = min(max(round(x - side / 2), 0), width - side)
    top = min(max(round(y - 0.54 * side), 0), height - side)
    square = picture[..., top : top + side, left : left + side]
    crop = bicubic(square, (_SIDE, _SIDE)).clamp(0, 1)
    points = (photo.points - torch.tensor([left, top]) + 0.5) * _SIDE / side - 0.5
    return (crop * 255).round() / 255, points


def chosen_pairs(photos: Sequence[FacePhoto]) -> list[tuple[FacePhoto, list[FacePhoto]]]:
    """For each person with two photos or more: the one with the largest face, and the others that judge it."""
    pairs = []
    for person in dict.fromkeys(photo.person for photo in photos):
        own = [photo for photo in photos if photo.person == person]
        if len(own) > 1:
            largest = max(own, key=lambda photo: photo.eyes)
            pairs.append((largest, [photo for photo in own if photo is not largest]))
    return pairs
