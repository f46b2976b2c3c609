"""Text to Mask: words of the edit -> the part of the face that they mean."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.backends.geometry import FLUX
from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.regions import Found, combined, latent_mask, shaped
from ..fluxguard_core.regions.overlay import overlay
from . import host
from .concepts import Concepts
from .faces import Faces
from .given import checked_masks, optional_masks, to_picture
from .mask_sources import empty_like, found_in_each, sources_for
from .node import Node
from .wires import CATEGORY, ConceptsWire, faces_input, shown, to_image


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
                ConceptsWire.Input(
                    "concepts",
                    optional=True,
                    tooltip="From Concept Attention: FLUX itself says where things are that no installed face parser finds.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Asked for the nearest region where a word is not in the lexicon.",
                ),
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
                io.Boolean.Input(
                    "keep_identity",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Leave eyes, brows, nose and mouth out of the mask unless the words name them.",
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
        concepts: Concepts | None = None,
        clip: Any = None,
        keep_identity: bool = False,
    ) -> io.NodeOutput:
        with host.ordinary_tensors():
            picture = to_picture(image).cpu().clone()
            given = _for_each(optional_masks(mask), len(picture))
            sources = sources_for(picture, faces, concepts, clip, keep_identity)
            seen = found_in_each(picture, sources, text, source_text.strip() or None)
            done = [
                one
                if isinstance(one, FluxGuardError)
                else _finished(one, given[n], combine, grow, feather)
                for n, one in enumerate(seen)
            ]
            masks = checked_masks(
                torch.cat(
                    [
                        one.mask if isinstance(one, Found) else empty_like(picture[n])
                        for n, one in enumerate(done)
                    ]
                )
            )
            drawn = torch.cat([_drawn(picture[n], one) for n, one in enumerate(done)])
        found = [one for one in done if isinstance(one, Found)]
        names = dict.fromkeys(name for one in found for name in (*one.names, *one.missing))
        told = "\n".join(_told(n, one, len(done)) for n, one in enumerate(done))
        return io.NodeOutput(
            masks[:, 0].float().cpu(), ", ".join(names), ui=shown(cls, to_image(drawn), told)
        )


def _for_each(masks: Tensor | None, batch: int) -> list[Tensor | None]:
    """The connected masks [1 or B, 1, H, W], one for each picture of a batch."""
    if masks is None:
        return [None] * batch
    if len(masks) not in (1, batch):
        raise FluxGuardError(
            f"{len(masks)} masks came for {batch} pictures. Give one mask, or one for each picture."
        )
    whole = masks.cpu().clone()
    return [whole[n : n + 1] if len(whole) > 1 else whole for n in range(batch)]


def _finished(found: Found, given: Tensor | None, combine: str, pixels: int, edge: int) -> Found:
    """Combined, grown and softened; never one that the latent does not see."""
    if given is not None:
        found = combined(found, given, combine)
    found = shaped(found, pixels=pixels, edge=edge)
    latent_mask(found, FLUX.pixels)
    return found


def _drawn(picture: Tensor, found: Found | FluxGuardError) -> Tensor:
    """The picture with its regions in colour, plain where there are none."""
    return overlay(picture[None], found) if isinstance(found, Found) else picture[None]


def _told(number: int, found: Found | FluxGuardError, pictures: int) -> str:
    """What was understood and found in a picture, in a line."""
    which = f"Picture {number}: " if pictures > 1 else ""
    if isinstance(found, Found):
        return f"{which}Understood as {found.told()}; {100 * found.share:.1f} % may change."
    return f"{which}nothing. {found.message}"
