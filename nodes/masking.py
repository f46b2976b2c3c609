"""Text to Mask: words of the edit -> the part of the face that they mean."""

from __future__ import annotations

from collections.abc import Callable

import torch
from comfy_api.latest import io
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
from .faces import Faces, for_batch, shifted
from .given import checked_masks, optional_masks, to_picture
from .node import Node
from .wires import CATEGORY, faces_input, shown, to_image


class TextToMask(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_TextToMask",
            display_name="Text to Mask",
            category=CATEGORY,
            description="Finds the part of the face that an edit's words name: hair, lips, glasses, background ...",
            search_aliases=[
                "edit and protect a face",
                "mask",
                "segment",
                "region",
                "face parsing",
                "prompt mask",
            ],
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
                faces_input(),
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
        combine: str,
        grow: int,
        feather: int,
        faces: Faces | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        source = source_text.strip() or None
        regions = regions_in(text) if source is None else regions_of_edit(source, text)
        with host.ordinary_tensors():
            picture = to_picture(image).clone()
            found = _masked(picture, text, source, faces)
            given = optional_masks(mask)
            if given is not None:
                found = _combined(found, given.clone(), combine)
            found = checked_masks(_shaped(found, grow, feather))[:, 0].cpu()
            seen = to_image(_lit(picture, found[:, None]))
        return io.NodeOutput(found, ", ".join(regions), ui=shown(cls, seen))


def _masked(picture: Tensor, text: str, source: str | None, faces: Faces | None) -> Tensor:
    """What the words mean on the chosen faces [B, 1, H, W]."""
    if faces is not None and faces.parse is not None:
        parse = faces.parse
        return _each(picture, lambda _, one: text_mask(one, text, parse, source=source))
    if faces is None or not faces.meshes:
        raise FluxGuardError(
            "Words need the outline of the face, and nothing here knows it.",
            "Connect Detect Face Landmarks (MediaPipe) to Face Picker, and Face Picker to ‹give faces›.",
        )
    meshes = for_batch(faces.meshes, len(picture))
    shift = shifted(faces.size, (picture.shape[-2], picture.shape[-1]))

    def outlined(number: int, one: Tensor) -> Tensor:
        if not meshes[number]:
            raise NoFace(
                f"No face was found in picture {number}. Use a picture with a larger, unobstructed face, or let "
                "the detector find more."
            )
        return union(
            *(
                text_mask(one, text, landmarks=mesh - shift, source=source)
                for mesh in meshes[number]
            )
        )

    return _each(picture, outlined)


def _lit(picture: Tensor, mask: Tensor) -> Tensor:
    """The picture, dark where the mask [B, 1, H, W] is black."""
    return picture.cpu() * (0.25 + 0.75 * mask)


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
