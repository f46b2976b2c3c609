"""Where the face is: from the host's landmarks or boxes, or found by a detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.faces.detectors import five_points, typed_box, yunet
from ..fluxguard_core.faces.face import FaceFinder
from . import folders, host
from .wires import FaceLandmarksWire

FINDERS = ("auto", "yunet", "miniature")
WHICH = ("index", "largest", "all")


def face_inputs() -> list[Any]:
    """Inputs with which a node learns where the face is."""
    return [
        FaceLandmarksWire.Input(
            "face_landmarks",
            optional=True,
            tooltip="From Detect Face Landmarks (MediaPipe), on the same picture.",
        ),
        io.BoundingBox.Input(
            "bboxes",
            optional=True,
            force_input=True,
            tooltip="A face box instead of landmarks, from any detector on the same picture.",
        ),
        io.Combo.Input(
            "face_finder",
            options=list(FINDERS),
            default="auto",
            tooltip="auto: connected landmarks or boxes, else YuNet where its file is installed. miniature: only for the miniature's portraits.",
        ),
        io.Int.Input(
            "face_index",
            default=0,
            min=0,
            max=31,
            advanced=True,
            tooltip="Which of several faces, the first being 0.",
        ),
        io.Combo.Input(
            "which_face",
            options=list(WHICH),
            default="index",
            optional=True,
            advanced=True,
            tooltip="Of several faces: the one numbered face_index, the largest, or all of them.",
        ),
    ]


@cache
def _yunet(path: str) -> FaceFinder:
    with host.ordinary_tensors():
        return yunet(path)


def face_finder(choice: str) -> FaceFinder | None:
    """The detector of a choice; None where ``auto`` finds none installed."""
    if choice == "miniature":
        from ..fluxguard_core.mini.faces import find_faces

        return find_faces
    path = folders.installed("yunet")
    if path is None and choice == "yunet":
        path = folders.required("yunet")
    return None if path is None else _yunet(str(path))


def mesh_landmarks(
    face_landmarks: dict[str, Any], size: tuple[int, int], index: int
) -> list[Tensor | None]:
    """One face mesh [478, 2] a picture, in the pixels of the encoded picture of ``size`` (height, width).

    None where a picture has no face.
    """
    meshes = _meshes(face_landmarks, size)
    return [
        _numbered(faces, index, number) if faces else None for number, faces in enumerate(meshes)
    ]


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

    def of(self, number: int) -> Tensor:
        """The faces of one picture [faces, 5, 2]."""
        return self.points.unflatten(0, (-1, len(self.pictures)))[:, self.pictures.index(number)]


def find_landmarks(
    picture: Tensor,
    choice: str,
    index: int,
    face_landmarks: dict[str, Any] | None,
    bboxes: Any,
    which: str = "index",
) -> Tensor:
    """Five points [faces · B, 5, 2] as ``locate_faces`` finds them; FluxGuardError for a picture without a face."""
    located = locate_faces(picture, choice, index, face_landmarks, bboxes, which)
    if located.faceless:
        raise FluxGuardError(_no_face(f"in picture {_numbers(located.faceless)}"))
    return located.points


def locate_faces(
    picture: Tensor,
    choice: str,
    index: int,
    face_landmarks: dict[str, Any] | None,
    bboxes: Any,
    which: str = "index",
) -> Located:
    """One face of every picture [B, 3, H, W], or all of them, and which pictures have none.

    Raises FluxGuardError where no picture has a face, or one has fewer than were asked for, saying what to do.
    """
    size, batch = (picture.shape[-2], picture.shape[-1]), picture.shape[0]
    seen = _seen(picture, choice, face_landmarks, bboxes, size)
    if len(seen) not in (1, batch):
        raise FluxGuardError(
            f"Faces of {len(seen)} pictures came for {batch} pictures. Detect them on the same batch."
        )
    seen = seen * batch if len(seen) == 1 else seen
    pictures = tuple(number for number, faces in enumerate(seen) if faces)
    if not pictures:
        raise FluxGuardError(_no_face("in the picture" if batch == 1 else "in any picture"))
    if which == "all":
        points = _everyone([seen[number] for number in pictures])
    elif which == "largest":
        points = torch.stack([max(seen[number], key=_spread) for number in pictures])
    else:
        points = torch.stack([_numbered(seen[number], index, number) for number in pictures])
    faceless = tuple(number for number in range(batch) if number not in pictures)
    return Located(points.float().cpu(), pictures, faceless)


def told_faceless(numbers: Sequence[int]) -> str:
    """What a user has to know of pictures that passed through a protection; "" where there are none."""
    if not numbers:
        return ""
    return f"NOT PROTECTED: picture {_numbers(numbers)} of the batch (the first is 0). No face was found there."


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _no_face(where: str) -> str:
    return (
        f"No face was found {where}. Use a picture with a larger, unobstructed face, or let the detector find "
        "more, or give a box."
    )


def _seen(
    picture: Tensor,
    choice: str,
    face_landmarks: dict[str, Any] | None,
    bboxes: Any,
    size: tuple[int, int],
) -> list[list[Tensor]]:
    """The five points of every face, picture by picture."""
    if face_landmarks is not None:
        return [list(map(five_points, faces)) for faces in _meshes(face_landmarks, size)]
    if bboxes is not None:
        return [[_in_box(box, picture[0]) for box in boxes] for boxes in _frames(bboxes)]
    return [_found(image, choice) for image in picture]


def _everyone(seen: list[list[Tensor]]) -> Tensor:
    counts = sorted({len(faces) for faces in seen})
    if len(counts) > 1:
        raise FluxGuardError(
            f"All faces are to be protected, but the pictures have {' and '.join(map(str, counts))} of them; expected "
            "the same number in each that has any. Protect such pictures one by one."
        )
    return torch.stack([torch.stack(faces) for faces in seen]).transpose(0, 1).flatten(0, 1)


def _spread(points: Tensor) -> float:
    """How large a face is."""
    return float((points - points.mean(0)).norm())


def _numbered(faces: list[Tensor], index: int, number: int) -> Tensor:
    if index >= len(faces):
        raise FluxGuardError(
            f"Picture {number} has {len(faces)} faces, but face {index} was asked for. Lower face_index, or let "
            "the detector find more."
        )
    return faces[index]


def _meshes(face_landmarks: dict[str, Any], size: tuple[int, int]) -> list[list[Tensor]]:
    shift = _shift(tuple(face_landmarks["image_size"]), size)
    return [
        [
            torch.as_tensor(face["landmarks_xy"], dtype=torch.float32)[:, :2] - shift
            for face in faces
        ]
        for faces in face_landmarks["frames"]
    ]


def _found(image: Tensor, choice: str) -> list[Tensor]:
    find = face_finder(choice)
    if find is None:
        raise FluxGuardError(
            "Where is the face? Connect Detect Face Landmarks (MediaPipe) or a box, or install YuNet "
            "(‹run models download yunet›)."
        )
    faces = find(image.detach().float().cpu())
    return [face.landmarks for face in faces if face.landmarks is not None]


def _in_box(box: dict[str, Any], image: Tensor) -> Tensor:
    x, y, width, height = (float(box[key]) for key in ("x", "y", "width", "height"))
    landmarks = typed_box((x, y, x + width, y + height))(image)[0].landmarks
    assert landmarks is not None
    return landmarks


def _frames(bboxes: Any) -> list[list[dict[str, Any]]]:
    """One box, a list of boxes, or a list of them a picture -> a list a picture."""
    if isinstance(bboxes, dict):
        return [[bboxes]]
    if bboxes and isinstance(bboxes[0], dict):
        return [list(bboxes)]
    return [list(faces) for faces in bboxes]


def _shift(seen: tuple[int, ...], size: tuple[int, int]) -> Tensor:
    """How far VAE Encode moved the picture when it cut it to whole latents."""
    over = [had - has for had, has in zip(seen, size, strict=True)]
    if any(not 0 <= extra < 8 for extra in over):
        raise FluxGuardError(
            f"The landmarks are of a picture of {seen[1]} x {seen[0]} pixels, but this one is {size[1]} x {size[0]}. "
            "Detect them on the picture that was encoded."
        )
    return torch.tensor([over[1] // 2, over[0] // 2], dtype=torch.float32)
