"""Face Picker: which faces are meant, from landmarks, boxes or a detector."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.faces.detectors import face_from_points, five_points, typed_box
from ..fluxguard_core.faces.face import Face, FaceFinder, choose
from . import host
from .faces import Faces, find_all, for_batch, installed_finder
from .given import to_picture
from .node import Node
from .wires import CATEGORY, FaceLandmarksWire, FacesWire, shown, to_image

_GREEN = (0.2, 0.9, 0.3)


def choice_input() -> Any:
    """Which of several faces is meant."""
    number = io.Int.Input(
        "number", default=0, min=0, max=31, tooltip="Number of the face, the first being 0."
    )
    return io.DynamicCombo.Input(
        "which",
        options=[
            io.DynamicCombo.Option("largest", []),
            io.DynamicCombo.Option("number", [number]),
            io.DynamicCombo.Option("all", []),
        ],
        tooltip="Of several faces: the largest, the one with a number in the order of the detector, or all of them.",
    )


def pick(faces: list[Face], which: dict[str, Any], number: int) -> tuple[Face, ...]:
    """The faces that a choice means in picture ``number`` of a batch; none where there are none."""
    if not faces:
        return ()
    wanted = which["number"] if which["which"] == "number" else which["which"]
    if isinstance(wanted, int) and wanted >= len(faces):
        raise FluxGuardError(
            f"Picture {number} has {len(faces)} faces, but face {wanted} was asked for (the first is 0).",
            "Lower ‹give number›, or let the detector find more.",
        )
    return tuple(choose(faces, wanted))


class FacePicker(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_FacePicker",
            display_name="Face Picker",
            category=CATEGORY,
            description="Says which faces are meant, to every node alike: the largest, a numbered one, or all.",
            search_aliases=["face detection", "find face", "choose face", "yunet", "which face"],
            inputs=[
                io.Image.Input("image", tooltip="The picture that is edited or protected."),
                FaceLandmarksWire.Input(
                    "face_landmarks",
                    optional=True,
                    tooltip="From Detect Face Landmarks (MediaPipe), on the same picture.",
                ),
                io.BoundingBox.Input(
                    "bboxes",
                    optional=True,
                    force_input=True,
                    tooltip="Face boxes instead of landmarks, from any detector on the same picture or typed by hand.",
                ),
                choice_input(),
            ],
            outputs=[
                FacesWire.Output(
                    display_name="faces",
                    tooltip="For Text to Mask, the refiner, Protect Latent and Privacy Report.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        which: dict[str, Any],
        face_landmarks: dict[str, Any] | None = None,
        bboxes: Any = None,
    ) -> io.NodeOutput:
        if face_landmarks is not None and bboxes is not None:
            raise FluxGuardError(
                "Landmarks and boxes are connected at once, and they may mean different faces.",
                "Disconnect ‹give face_landmarks› or ‹give bboxes›.",
            )
        with host.ordinary_tensors():
            picture = to_picture(image).cpu().clone()
            if face_landmarks is not None:
                faces = _from_landmarks(picture, face_landmarks, which)
            elif bboxes is not None:
                faces = _from_boxes(picture, bboxes, which)
            else:
                faces = found_faces(picture, _required(), which)
            return io.NodeOutput(faces, ui=shown(cls, to_image(framed(picture, faces))))


def found_faces(picture: Tensor, find: FaceFinder, which: dict[str, Any]) -> Faces:
    """The chosen faces of every picture [B, 3, H, W] that a detector finds; FluxGuardError where none has any."""
    seen = find_all(picture, find)
    return _some(
        Faces(
            tuple(pick(faces, which, number) for number, faces in enumerate(seen)),
            (picture.shape[-2], picture.shape[-1]),
            find=find,
        )
    )


def framed(picture: Tensor, faces: Faces) -> Tensor:
    """The pictures [B, 3, H, W] with a frame around every chosen face."""
    drawn = picture.clone()
    height, width = picture.shape[-2:]
    line = max(1, min(height, width) // 128)
    colour = torch.tensor(_GREEN)[:, None, None]
    for one, chosen in zip(drawn, for_batch(faces.chosen, len(picture)), strict=True):
        for face in chosen:
            left, top, right, bottom = (round(edge) for edge in face.box)
            left, right = max(0, left), min(width, right)
            top, bottom = max(0, top), min(height, bottom)
            inside = one[:, top + line : bottom - line, left + line : right - line].clone()
            one[:, top:bottom, left:right] = colour
            one[:, top + line : bottom - line, left + line : right - line] = inside
    return drawn


def _required() -> FaceFinder:
    find = installed_finder()
    if find is None:
        raise FluxGuardError(
            "Nothing here finds faces.",
            "Connect Detect Face Landmarks (MediaPipe) to ‹give face_landmarks› or a box to ‹give bboxes›, or install "
            "YuNet (‹run models download yunet›).",
        )
    return find


def _some(faces: Faces) -> Faces:
    if not any(faces.chosen):
        where = "the picture" if len(faces.chosen) == 1 else "any picture"
        raise FluxGuardError(
            f"No face was found in {where}.",
            "Use a picture with a larger, unobstructed face, or let the detector find more, or give a box.",
        )
    return faces


def _from_landmarks(
    picture: Tensor, face_landmarks: dict[str, Any], which: dict[str, Any]
) -> Faces:
    size = tuple(face_landmarks["image_size"])
    if size != (picture.shape[-2], picture.shape[-1]):
        raise FluxGuardError(
            f"The landmarks are of a picture of {size[1]} x {size[0]} pixels, but ‹give image› is "
            f"{picture.shape[-1]} x {picture.shape[-2]}.",
            "Detect them on the same picture.",
        )
    chosen: list[tuple[Face, ...]] = []
    meshes: list[tuple[Tensor, ...]] = []
    for number, frame in enumerate(for_batch(face_landmarks["frames"], len(picture))):
        outlines = [
            torch.as_tensor(face["landmarks_xy"], dtype=torch.float32)[:, :2] for face in frame
        ]
        faces = [face_from_points(five_points(mesh)) for mesh in outlines]
        picked = pick(faces, which, number)
        chosen.append(picked)
        meshes.append(
            tuple(mesh for mesh, face in zip(outlines, faces, strict=True) if face in picked)
        )
    return _some(Faces(tuple(chosen), size, tuple(meshes), installed_finder()))


def _from_boxes(picture: Tensor, bboxes: Any, which: dict[str, Any]) -> Faces:
    frames = for_batch(_frames(bboxes), len(picture))
    seen = [
        [_in_box(box, one) for box in boxes] for one, boxes in zip(picture, frames, strict=True)
    ]
    chosen = tuple(pick(faces, which, number) for number, faces in enumerate(seen))
    return _some(Faces(chosen, (picture.shape[-2], picture.shape[-1]), find=installed_finder()))


def _in_box(box: dict[str, Any], image: Tensor) -> Face:
    x, y, width, height = (float(box[key]) for key in ("x", "y", "width", "height"))
    return typed_box((x, y, x + width, y + height))(image)[0]


def _frames(bboxes: Any) -> list[list[dict[str, Any]]]:
    """One box, a list of boxes, or a list of them a picture -> a list a picture."""
    if isinstance(bboxes, dict):
        return [[bboxes]]
    if bboxes and isinstance(bboxes[0], dict):
        return [list(bboxes)]
    return [list(faces) for faces in bboxes]
