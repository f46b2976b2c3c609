"""Back to pixels: a result over the photo's own detail."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.pictures.detail import with_detail
from .given import optional_masks, samples_of, to_picture
from .node import Node
from .wires import CATEGORY, to_image


class KeepPhotoPixels(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_KeepPhotoPixels",
            display_name="Keep Photo Pixels (VAE Decode)",
            category=CATEGORY,
            description="Decodes a result and lays what changed over the photo itself, so that freckles, wrinkles and "
            "grain that the VAE cannot hold stay.",
            search_aliases=["vae decode", "detail", "paste back", "composite", "original pixels"],
            inputs=[
                io.Image.Input("photo", tooltip="The picture that was encoded, as it is."),
                io.Latent.Input("source", tooltip="The photo's own latent, from VAE Encode."),
                io.Latent.Input(
                    "result",
                    tooltip="What became of it: from the refiner, Protect Latent or a sampler.",
                ),
                io.Vae.Input("vae", tooltip="The VAE that encoded the photo."),
                io.Mask.Input(
                    "region",
                    optional=True,
                    tooltip="Outside it the photo stays bit for bit. For Protect Latent: its region. An edit needs none, or the mask of all that was edited.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The photo with the changes in it, in its own size.")],
        )

    @classmethod
    def execute(
        cls,
        photo: Tensor,
        source: dict[str, Any],
        result: dict[str, Any],
        vae: Any,
        region: Tensor | None = None,
    ) -> io.NodeOutput:
        picture, within = to_picture(photo, "photo").cpu(), optional_masks(region, "region")
        latents = {"source": source, "result": result}
        samples = [samples_of(latent, name) for name, latent in latents.items()]
        plain, decoded = (to_picture(vae.decode(one), "vae").cpu() for one in samples)
        count = _one_number(photo=picture, source=plain, result=decoded, region=within)
        picture = picture.expand(count, -1, -1, -1)
        cell = decoded.shape[-2] // samples[1].shape[-2]
        top, left, height, width = _encoded_part(picture, decoded, cell)
        whole = picture.clone()
        part = whole[..., top : top + height, left : left + width]
        changed = with_detail(decoded, part, plain)
        if within is not None:
            share = _checked(within, (height, width)).to(part)
            changed = torch.where(share > 0, torch.lerp(part, changed, share), part)
        whole[..., top : top + height, left : left + width] = changed
        return io.NodeOutput(to_image(whole))


def _one_number(**given: Tensor | None) -> int:
    """How many pictures there are; each input has one, or one for each of them."""
    counts = {name: len(batch) for name, batch in given.items() if batch is not None}
    most = max(counts.values())
    if any(count not in (1, most) for count in counts.values()):
        told = ", ".join(f"{count} on ‹give {name}›" for name, count in counts.items())
        raise FluxGuardError(
            f"Expected one picture or the same number on each input, got {told}.",
            "Connect what belongs to the same batch.",
        )
    return most


def _encoded_part(photo: Tensor, decoded: Tensor, cell: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of what VAE Encode took: the middle of the photo, in whole cells of a latent."""
    height, width = decoded.shape[-2:]
    over = [had - has for had, has in zip(photo.shape[-2:], (height, width), strict=True)]
    if any(not 0 <= extra < cell for extra in over):
        raise FluxGuardError(
            f"The photo is {photo.shape[-1]} x {photo.shape[-2]} pixels, but the result {width} x {height}.",
            "Connect the picture that went into VAE Encode to ‹give photo›.",
        )
    return over[0] // 2, over[1] // 2, height, width


def _checked(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """A region [B, 1, H, W] of the decoded size."""
    if tuple(masks.shape[-2:]) != size:
        raise FluxGuardError(
            f"The region is {masks.shape[-1]} x {masks.shape[-2]} pixels, but the result {size[1]} x {size[0]}.",
            "Connect the region of the protecting node, or a mask of that size.",
        )
    return masks
