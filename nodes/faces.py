"""Where the face is: from the host's landmarks or boxes, or found by a detector."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.recognition.detectors import five_points, typed_box, yunet
from ..fluxguard_core.recognition.faces import FaceFinder
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
) -> list[Tensor]:
    """One face mesh [478, 2] a picture, in the pixels of the encoded picture of ``size`` (height, width)."""
    meshes = _meshes(face_landmarks, size)
    return [_numbered(faces, index, number) for number, faces in enumerate(meshes)]


def find_landmarks(
    picture: Tensor,
    choice: str,
    index: int,
    face_landmarks: dict[str, Any] | None,
    bboxes: Any,
    which: str = "index",
) -> Tensor:
    """Five points [B, 5, 2] of one face a picture [B, 3, H, W]; of all faces [faces · B, 5, 2].

    Of all faces, each is followed through the batch before the next. Raises FluxGuardError where no face is
    found, saying what to connect.
    """
    size, batch = (picture.shape[-2], picture.shape[-1]), picture.shape[0]
    if face_landmarks is not None:
        seen = [list(map(five_points, faces)) for faces in _meshes(face_landmarks, size)]
    elif bboxes is not None:
        seen = [[_in_box(box, picture[0]) for box in boxes] for boxes in _frames(bboxes)]
    else:
        seen = [_found(image, choice) for image in picture]
    if len(seen) not in (1, batch):
        raise FluxGuardError(
            f"Faces of {len(seen)} pictures came for {batch} pictures. Detect them on the same batch."
        )
    if which == "all":
        return _everyone(seen, batch)
    if which == "largest":
        chosen = [max(faces, key=_spread) for faces in seen if faces]
        if len(chosen) == len(seen):
            return torch.stack(chosen).float().cpu()
    points = [_numbered(faces, index, number) for number, faces in enumerate(seen)]
    return torch.stack(points).float().cpu()


def _everyone(seen: list[list[Tensor]], batch: int) -> Tensor:
    counts = sorted({len(faces) for faces in seen})
    if counts == [0] or len(counts) > 1:
        raise FluxGuardError(
            f"All faces are to be protected, but the pictures have {' and '.join(map(str, counts))} of them; expected "
            "the same number in each, and at least one. Protect such pictures one by one."
        )
    every = torch.stack([torch.stack(faces) for faces in seen]).float().cpu()
    return every.expand(batch, -1, -1, -1).transpose(0, 1).flatten(0, 1)


def _spread(points: Tensor) -> float:
    """How large a face is."""
    return float((points - points.mean(0)).norm())


def _numbered(faces: list[Tensor], index: int, number: int) -> Tensor:
    if index >= len(faces):
        raise FluxGuardError(
            f"Picture {number} has {len(faces)} faces, but face {index} was asked for. Use a picture with a larger, "
            "unobstructed face, lower face_index, or let the detector find more."
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
            "(fluxguard models download yunet)."
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
