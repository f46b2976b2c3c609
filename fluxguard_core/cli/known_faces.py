"""Folders of pictures of known people, for the commands that measure recognisers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..faces.alignment import align, whole_frame
from ..faces.crops import Crop
from ..faces.face import FaceFinder, choose
from ..mini.world_check import world_of
from ..pictures.files import PictureError, read_picture
from ..pictures.folder import photos_in
from ..recognition.encoder import FaceEncoder
from ..resampling import shrink
from ..weights import find, load_manifest
from ..worlds import World
from .command_line import TERMINAL
from .finding import finder_for

LONGEST = 1024
"""Pictures are kept at this side at most: recognisers see 112 to 224 pixels of a face."""


@dataclass(frozen=True, eq=False)
class Known:
    """A picture [3,H,W] of a person with the five points [5,2] of the face, None for the whole frame."""

    image: Tensor
    points: Tensor | None
    person: str

    def cut(self, crop: Crop) -> Tensor:
        """The face as a recogniser's crop [1,3,size,size]."""
        if self.points is None:
            return whole_frame(self.image[None], crop)
        return align(self.image[None], self.points[None], crop)


@dataclass(frozen=True, eq=False)
class Gathered:
    """The pictures that can be used, how their faces were found, and how many could not be."""

    known: tuple[Known, ...]
    detector: str
    left_out: int

    @property
    def people(self) -> list[str]:
        return [item.person for item in self.known]


def gather(args: argparse.Namespace, world: World) -> Gathered:
    """The people of a folder with their faces; pictures of the other world are left out, and told.

    FluxGuardError where none can be used, and where most are of the other world: then the recogniser
    and the folder do not belong together.
    """
    finder_for, detector = _finder_for(args, world)
    known: list[Known] = []
    left_out = foreign = 0
    for path, person in pictures_of(args.faces):
        try:
            image = read_picture(path).rgb[0]
            points = _points(finder_for(path), image)
        except (PictureError, FluxGuardError) as error:
            print(f"left out: {path.name}: {error.told(TERMINAL)}")
            left_out += 1
            continue
        if world_of(image) != world:
            foreign += 1
            continue
        known.append(Known(*_smaller(image, points), person))
    _check_world(args.faces, world, foreign, len(known))
    if not known:
        raise FluxGuardError(
            f"No face was found in any of the {left_out} pictures in {args.faces}.",
            "Choose another ‹give detector›.",
        )
    return Gathered(tuple(known), detector, left_out + foreign)


def _check_world(folder: Path, world: World, foreign: int, fitting: int) -> None:
    if not foreign:
        return
    other, own = ("photos", "drawn portraits") if world == "drawn" else ("drawings", "photos")
    if foreign > fitting:
        raise FluxGuardError(
            f"{foreign} of {foreign + fitting} pictures in {folder} are {other}, and the recogniser knows {own} "
            "only. Thresholds measured so would mean nothing.",
            f"Give a folder of {own}, or a recogniser that knows {other} (its note may say so).",
        )
    print(f"{foreign} pictures were left out: they are {other}, and the recogniser knows {own}.")


def _finder_for(
    args: argparse.Namespace, world: World
) -> tuple[Callable[[Path], FaceFinder | None], str]:
    if args.points is not None:
        return finder_for(args.points, "", world), f"points of {args.points.name}"
    text = args.detector or usual_detector(world)
    return finder_for(None, text, world), f"detector {text.partition(':')[0]}"


def usual_detector(world: World) -> str:
    """The detector for pictures of a world; FluxGuardError says how to get one for photos."""
    if world == "drawn":
        return "miniature"
    if find(load_manifest()["yunet"]) is None:
        raise FluxGuardError(
            "Nothing here finds faces in photos.",
            "Fetch a detector with ‹run models download yunet› (licence MIT), or give ‹give detector› or "
            "‹give points›.",
        )
    return "yunet"


def _points(find_faces: FaceFinder | None, image: Tensor) -> Tensor | None:
    if find_faces is None:
        return None
    faces = [face for face in find_faces(image) if face.landmarks is not None]
    if not faces:
        raise FluxGuardError("No face with five points was found in it.")
    return choose(faces, "largest")[0].landmarks


def _smaller(image: Tensor, points: Tensor | None) -> tuple[Tensor, Tensor | None]:
    longest = max(image.shape[-2:])
    if longest <= LONGEST:
        return image, points
    height, width = (max(1, round(side * LONGEST / longest)) for side in image.shape[-2:])
    size = (height, width)
    small = shrink(image[None], size)[0]
    factor = torch.tensor([size[1] / image.shape[-1], size[0] / image.shape[-2]])
    return small, None if points is None else (points + 0.5) * factor - 0.5


def pictures_of(folder: Path) -> list[tuple[Path, str]]:
    """Picture files under a folder with the person each shows: the sub-folder, else the file."""
    photos = photos_in(folder, recursive=True)
    for line in photos.told():
        print(f"passed over: {TERMINAL(line)}")
    return [(p, str(p if p.parent == folder else p.parent)) for p in photos.taken]


@torch.no_grad()
def embedded(encoder: FaceEncoder, known: Sequence[Known]) -> Tensor:
    """Embeddings [N,D] of all pictures, cut and fed the encoder's way."""
    parts = []
    for start in range(0, len(known), 16):
        crops = torch.cat([item.cut(encoder.crop) for item in known[start : start + 16]])
        parts.append(encoder(crops).cpu())
    return torch.cat(parts)
