"""The refiner without an edit: any finished latent, each picture by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.protect.engine import Step
from ..fluxguard_core.protect.run import protect_latent
from . import host
from .faces import Located, points_by_picture
from .given import latent_mask, samples_of
from .node import Node
from .options import PRESET_NAMES
from .preparation import iterates_of, look, needs_face, prepare
from .protection_inputs import Wishes, protection_inputs, wishes_of
from .protection_report import heading, passing, told, told_unmasked, warned
from .wires import CATEGORY, shown, to_image
from .worlds import check_pictures, face_finder, recognisers, vae_knower


class ProtectLatent(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_ProtectLatent",
            display_name="Protect Latent",
            category=CATEGORY,
            description="Protects a picture that exists already, from any model: the refiner without an edit. No "
            "FLUX needed, only the VAE that encoded it.",
            search_aliases=[
                "protect a face",
                "protect",
                "privacy",
                "cloak",
                "existing picture",
                "face protection",
            ],
            inputs=[
                io.Latent.Input(
                    "latent", tooltip="The picture, from VAE Encode with the VAE below."
                ),
                *protection_inputs(list(PRESET_NAMES)),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="protected",
                    tooltip="The protected picture, for Keep Photo Pixels or VAE Decode.",
                ),
                io.Mask.Output(
                    display_name="region",
                    tooltip="Where the protection acted, softly, for pasting the face back.",
                ),
                io.String.Output(display_name="report", tooltip="What happened, round by round."),
            ],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], preset: str, **given: Any) -> io.NodeOutput:
        wishes, samples = wishes_of(given, preset), _samples(latent)
        decoder = host.picture_decoder(wishes.vae)
        pictures = [look(decoder, one) for one in samples.split(1)]
        whole = torch.cat(pictures)
        faces = _faces(wishes, whole)
        known = [vae_knower(wishes.vae), *face_finder(wishes.faces)]
        check_pictures(whole, faces, [*known, *recognisers(wishes.ensemble.members)])
        each = wishes.preset.attacked * iterates_of(wishes.preset)
        bar = host.Progress(each * len(samples))
        protected, regions, seen, lines = [], [], [], [heading(wishes)]
        masks = _masks_of(wishes.mask, samples, whole.shape[-2] // samples.shape[-2])
        for number, (one, picture) in enumerate(zip(samples.split(1), pictures, strict=True)):
            start = number * each
            result = _protected(
                replace(wishes, mask=masks[number]),
                decoder,
                one,
                picture,
                faces[number],
                lambda done, preview=None, start=start: bar(start + done, preview),
            )
            protected.append(result.samples)
            regions.append(result.region)
            seen.append(result.seen)
            lines += [f"Picture {number}:"] if len(samples) > 1 and result.log else []
            lines += told(result.log)
        bar(bar.total)
        faceless = tuple(
            number for number, points in enumerate(faces) if points is not None and not len(points)
        )
        unmasked = tuple(n for n, mask in enumerate(masks) if mask is not None and not mask.any())
        report = "\n".join([*warned(faceless), *map(told_unmasked, unmasked), *lines])
        together = {"samples": torch.cat(protected).to(latent["samples"].device)}
        return io.NodeOutput(
            passing(together, latent["samples"], (*faceless, *unmasked)),
            torch.cat(regions),
            report,
            ui=shown(cls, to_image(torch.cat(seen)), report),
        )


@dataclass(frozen=True, eq=False)
class _Alone:
    """One picture: samples [1, C, h, w], where it was worked on [1, H, W], and lit there [1, 3, H, W]."""

    samples: Tensor
    region: Tensor
    seen: Tensor
    log: tuple[Step, ...]


def _protected(
    wishes: Wishes,
    decoder: host.PictureDecoder,
    samples: Tensor,
    picture: Tensor,
    points: Tensor | None,
    progress: Any,
) -> _Alone:
    """Protect one picture, whatever lies beside it in the batch; without a face or a mask it stays as it is."""
    faceless = points is not None and not len(points)
    if faceless or (wishes.mask is not None and not bool(wishes.mask.any())):
        dark = torch.zeros(1, *picture.shape[-2:])
        return _Alone(samples, dark, picture.cpu() * 0.25, ())
    # Latents of other models are brought to unit spread, for which the learning rate was chosen.
    unit = float(samples.std())
    if not unit > 0:
        raise FluxGuardError(
            "The latent is empty, so there is nothing to protect.", "Encode a picture."
        )
    located = Located(torch.empty(0, 5, 2) if points is None else points, (0,), ())
    prepared = prepare(
        wishes, decoder, samples / unit, picture, located, lambda z: z * unit, progress, 0
    )
    result = protect_latent(
        samples / unit,
        prepared.turns.refining(prepared.refiner),
        rounds=wishes.preset.attacked,
        window=prepared.window,
    )
    return _Alone(result.protected * unit, prepared.region, prepared.seen, result.log)


def _samples(latent: dict[str, Any]) -> Tensor:
    return samples_of(latent).to(host.working_device(), torch.float32)


def _faces(wishes: Wishes, pictures: Tensor) -> list[Tensor | None]:
    """The five points of every picture's faces [faces, 5, 2]; None where the preset takes it whole."""
    if not needs_face(wishes.preset):
        return [None] * len(pictures)
    with host.ordinary_tensors():
        return list(points_by_picture(wishes.faces, pictures))


def _masks_of(mask: Tensor | None, samples: Tensor, pixels: int) -> list[Tensor | None]:
    """Every picture's mask at latent resolution [1, h, w]; of several, some may be empty."""
    if mask is None:
        return [None] * len(samples)
    with host.ordinary_tensors():
        grid = (samples.shape[-2], samples.shape[-1])
        masks = latent_mask(mask.clone(), grid, len(samples), pixels)[:, 0]
    return list(masks.expand(len(samples), -1, -1).split(1))
