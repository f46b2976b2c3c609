"""Text to Mask: words of the edit -> the part of the face that they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.regions import (
    EmptyMask,
    NoFace,
    feather,
    grow,
    intersection,
    regions_in,
    regions_of_edit,
    text_mask,
    union,
)
from . import host
from .faces import mesh_landmarks
from .wires import CATEGORY, FaceLandmarksWire, checked_masks, to_picture


class TextToMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_TextToMask",
            display_name="Text to Mask",
            category=CATEGORY,
            description="Finds the part of the face that an edit's words name: hair, lips, glasses, background ...",
            search_aliases=["mask", "segment", "region", "face parsing", "prompt mask"],
            inputs=[
                io.Image.Input("image", tooltip="The picture that is edited."),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="red lipstick",
                    tooltip="The edit, or the whole target prompt. Names of face regions are looked up in it.",
                ),
                io.String.Input(
                    "source_text",
                    multiline=True,
                    default="",
                    tooltip="Optional source prompt: then only what differs between the two prompts is masked.",
                ),
                io.Combo.Input(
                    "method",
                    options=["auto", "landmarks", "miniature"],
                    default="auto",
                    tooltip="auto: the connected landmarks. miniature: the built-in parser, only for the miniature's portraits.",
                ),
                FaceLandmarksWire.Input(
                    "face_landmarks",
                    optional=True,
                    tooltip="From Detect Face Landmarks (MediaPipe).",
                ),
                io.Mask.Input("mask", optional=True, tooltip="A mask of your own to combine with."),
                io.Combo.Input(
                    "combine",
                    options=["add", "intersect", "subtract"],
                    default="add",
                    tooltip="What to do with the connected mask.",
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-64,
                    max=256,
                    tooltip="Grow the mask by so many pixels; negative shrinks it.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="Soften the edge over so many pixels.",
                ),
                io.Int.Input(
                    "face_index",
                    default=0,
                    min=0,
                    max=31,
                    advanced=True,
                    tooltip="Which of several faces, the first being 0.",
                ),
            ],
            outputs=[
                io.Mask.Output(tooltip="White may change."),
                io.String.Output(
                    display_name="regions", tooltip="The regions that were understood."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        text: str,
        source_text: str,
        method: str,
        combine: str,
        grow: int,
        feather: int,
        face_index: int,
        face_landmarks: dict[str, Any] | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        source = source_text.strip() or None
        regions = regions_in(text) if source is None else regions_of_edit(source, text)
        with host.ordinary_tensors():
            picture = to_picture(image).clone()
            found = _masked(picture, text, source, method, face_landmarks, face_index)
            if mask is not None:
                found = _combined(found, mask[:, None].clone(), combine)
            found = checked_masks(_shaped(found, grow, feather))[:, 0].cpu()
        return io.NodeOutput(found, ", ".join(regions), ui=ui.PreviewMask(found, cls=cls))


def _masked(
    picture: Tensor,
    text: str,
    source: str | None,
    method: str,
    face_landmarks: dict[str, Any] | None,
    index: int,
) -> Tensor:
    if method == "miniature":
        from ..fluxguard_core.mini.faces import parse_face

        return _each(picture, lambda _, one: text_mask(one, text, parse_face, source=source))
    if face_landmarks is None:
        raise FluxGuardError(
            "Words need to know where the face is: connect Detect Face Landmarks (MediaPipe), or choose method "
            "'miniature' for the miniature's portraits."
        )
    size = (picture.shape[-2], picture.shape[-1])
    meshes = mesh_landmarks(face_landmarks, size, index)
    if len(meshes) not in (1, len(picture)):
        raise FluxGuardError(
            f"Landmarks of {len(meshes)} pictures came for {len(picture)} pictures. Detect them on the same batch."
        )
    meshes = meshes * len(picture) if len(meshes) == 1 else meshes

    def outlined(number: int, one: Tensor) -> Tensor:
        mesh = meshes[number]
        if mesh is None:
            raise NoFace(
                f"No face was found in picture {number}. Use a picture with a larger, unobstructed face, or let "
                "the detector find more."
            )
        return text_mask(one, text, landmarks=mesh, source=source)

    return _each(picture, outlined)


def _each(picture: Tensor, draw: Callable[[int, Tensor], Tensor]) -> Tensor:
    """The mask of every picture [B, 1, H, W]; in a batch an empty one where there is no face or no such part.

    Raises what ``draw`` did where no picture has one.
    """
    masks: list[Tensor] = []
    failures: list[FluxGuardError] = []
    for number, one in enumerate(picture):
        try:
            masks.append(draw(number, one[None]))
        except (NoFace, EmptyMask) as failure:
            failures.append(failure)
            masks.append(torch.zeros_like(one[None, :1]))
    if len(failures) == len(picture):
        raise failures[0]
    return torch.cat(masks)


def _combined(found: Tensor, given: Tensor, how: str) -> Tensor:
    given = given.to(found)
    if how == "subtract":
        return intersection(found, 1 - given)
    return union(found, given) if how == "add" else intersection(found, given)


def _shaped(mask: Tensor, pixels: int, edge: int) -> Tensor:
    return feather(grow(mask, pixels) if pixels else mask, edge)
