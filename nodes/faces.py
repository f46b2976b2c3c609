"""Where the faces are: the value on a FACES wire, and what a node does without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.faces.detectors import yunet
from ..fluxguard_core.faces.face import Face, FaceFinder, choose
from ..fluxguard_core.regions import FaceParser
from . import folders, host

Seen = TypeVar("Seen")


@dataclass(frozen=True, eq=False)
class Faces:
    """The chosen faces of a batch, and who finds them in other pictures.

    Args:
        chosen: the faces picture by picture; none where a picture has none.
        size: height and width of the pictures they were found in.
        meshes: MediaPipe's [478, 2] of the same faces, where it found them.
        find: finds faces anew; None where nothing here can.
        parse: labels a face's parts; only for drawn faces.
    """

    chosen: tuple[tuple[Face, ...], ...]
    size: tuple[int, int]
    meshes: tuple[tuple[Tensor, ...], ...] = ()
    find: FaceFinder | None = None
    parse: FaceParser | None = None


@dataclass(frozen=True, eq=False)
class Located:
    """Where the faces of a batch are.

    Args:
        points: five points [faces · N, 5, 2] of the N pictures with a face; each face is followed through
            them before the next.
        pictures: numbers of the pictures with a face.
        faceless: numbers of the others.
    """

    points: Tensor
    pictures: tuple[int, ...]
    faceless: tuple[int, ...]

    @property
    def by_picture(self) -> list[Tensor | None]:
        """The points of each picture's faces [faces, 5, 2]; None where pictures are taken whole."""
        count = len(self.pictures) + len(self.faceless)
        if not len(self.points):
            return [None] * count
        each = self.points.unflatten(0, (-1, len(self.pictures))).transpose(0, 1)
        found = dict(zip(self.pictures, each, strict=True))
        return [found.get(number, torch.empty(0, 5, 2)) for number in range(count)]


@cache
def _yunet(path: str) -> FaceFinder:
    with host.ordinary_tensors():
        return yunet(path)


def installed_finder() -> FaceFinder | None:
    """YuNet where its file is installed, else None."""
    path = folders.installed("yunet")
    return None if path is None else _yunet(str(path))


def finder(faces: Faces | None) -> FaceFinder | None:
    """Who finds faces in further pictures."""
    return installed_finder() if faces is None else faces.find


def points_by_picture(faces: Faces | None, picture: Tensor) -> list[Tensor]:
    """Five points [faces, 5, 2] for each picture of [B, 3, H, W]; [0, 5, 2] where a picture has no face.

    Without FACES the largest face is looked for. Raises FluxGuardError where no picture has a face, saying what
    to do.
    """
    size, batch = (picture.shape[-2], picture.shape[-1]), len(picture)
    known = _largest(picture) if faces is None else faces
    found = for_batch(known.chosen, batch)
    if not any(found):
        raise FluxGuardError(_no_face("in the picture" if batch == 1 else "in any picture"))
    shift = shifted(known.size, size)
    return [
        torch.stack([_landmarks(face) for face in chosen]).float().cpu() - shift
        if chosen
        else torch.empty(0, 5, 2)
        for chosen in found
    ]


def locate(faces: Faces | None, picture: Tensor) -> Located:
    """The same faces for a run that takes the batch [B, 3, H, W] as one.

    Raises FluxGuardError where the pictures have different numbers of chosen faces.
    """
    found = points_by_picture(faces, picture)
    pictures = tuple(number for number, points in enumerate(found) if len(points))
    counts = sorted({len(found[number]) for number in pictures})
    if len(counts) > 1:
        raise FluxGuardError(
            f"All faces are to be protected, but the pictures have {' and '.join(map(str, counts))} of them; expected "
            "the same number in each that has any.",
            "Protect such pictures one by one.",
        )
    together = torch.stack([found[number] for number in pictures]).transpose(0, 1).flatten(0, 1)
    faceless = tuple(number for number in range(len(picture)) if number not in pictures)
    return Located(together, pictures, faceless)


def find_all(picture: Tensor, find: FaceFinder) -> list[list[Face]]:
    """All faces with landmarks in every picture of [B, 3, H, W]."""
    return [
        [face for face in find(one.detach().float().cpu()) if face.landmarks is not None]
        for one in picture
    ]


def for_batch(seen: Sequence[Seen], batch: int) -> list[Seen]:
    """What was seen in one picture or in each, for each picture of a batch."""
    if len(seen) not in (1, batch):
        raise FluxGuardError(
            f"Faces of {len(seen)} pictures came for {batch} pictures.",
            "Detect them on the same batch.",
        )
    return list(seen) * batch if len(seen) == 1 else list(seen)


def shifted(seen: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """How far VAE Encode moved the picture of height and width ``seen`` when it cut it to whole latents."""
    over = [had - has for had, has in zip(seen, size, strict=True)]
    if not any(over == [had % cell for had in seen] for cell in (1, *host.CELLS)):
        raise FluxGuardError(
            f"The faces are of a picture of {seen[1]} x {seen[0]} pixels, but this one is {size[1]} x {size[0]}.",
            "Detect them on the picture that was encoded.",
        )
    return torch.tensor([over[1] // 2, over[0] // 2], dtype=torch.float32)


def told_faceless(numbers: Sequence[int]) -> str:
    """What a user has to know of pictures that passed through a protection; "" where there are none."""
    if not numbers:
        return ""
    told = ", ".join(map(str, numbers))
    return f"NOT PROTECTED: picture {told} of the batch (the first is 0). No face was found there."


def _largest(picture: Tensor) -> Faces:
    find = installed_finder()
    if find is None:
        raise FluxGuardError(
            "Where is the face? Nothing here finds it.",
            "Connect Face Picker with Detect Face Landmarks (MediaPipe) or a box to ‹give faces›, or install YuNet "
            "(‹run models download yunet›).",
        )
    seen = find_all(picture, find)
    largest = tuple(tuple(choose(faces, "largest")) if faces else () for faces in seen)
    return Faces(largest, (picture.shape[-2], picture.shape[-1]), find=find)


def _landmarks(face: Face) -> Tensor:
    if face.landmarks is None:
        raise FluxGuardError("A face came without landmarks, and alignment needs five points.")
    return face.landmarks


def _no_face(where: str) -> str:
    return (
        f"No face was found {where}. Use a picture with a larger, unobstructed face, or let the detector find "
        "more, or give a box."
    )
