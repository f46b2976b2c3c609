"""Before a protection: everything loaded, the person looked at once, the refiner built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.protect.assemble import assemble_refiner, blending_mask
from ..fluxguard_core.protect.engine import Step
from ..fluxguard_core.protect.perceptual import (
    PerceptualDistance,
    VGG19Features,
    feature_distance,
    vgg19_relu3_4,
)
from ..fluxguard_core.protect.presets import Preset
from ..fluxguard_core.protect.refiner import Refiner
from ..fluxguard_core.protect.region import Window
from . import folders, host
from .faces import Located, locate
from .given import latent_mask
from .protection_inputs import Wishes


@dataclass(frozen=True, eq=False)
class Prepared:
    """A refiner ready to run, and its turns on the card.

    Args:
        region: where it will act [1 or B, H, W], and ``seen`` the pictures lit there [B, 3, H, W].
        faceless: numbers of the pictures that it leaves alone.
    """

    refiner: Refiner
    window: Window | None
    region: Tensor
    seen: Tensor
    turns: host.Turns
    first: int
    iterates: int
    faceless: tuple[int, ...]

    def done(self, attacked: int, generated: int) -> int:
        """Progress in all: intervals generated, and iterates of the attacked ones before."""
        return generated + max(0, attacked - 1) * self.iterates


def iterates_of(preset: Preset) -> int:
    return preset.refiner.descent.iterates


def needs_face(preset: Preset) -> bool:
    """Whether a preset works on faces; the paper preset takes every picture whole."""
    return preset.aligned or preset.face_only


def look(decoder: host.PictureDecoder, samples: Tensor) -> Tensor:
    """What a latent [B, C, h, w] shows, without gradients."""
    with host.ordinary_tensors():
        return decoder.look(samples)


def whereabouts(wishes: Wishes, picture: Tensor) -> Located:
    """The faces to protect in pictures [B, 3, H, W]."""
    if not needs_face(wishes.preset):
        return Located(torch.empty(0, 5, 2), tuple(range(len(picture))), ())
    with host.ordinary_tensors():
        return locate(wishes.faces, picture)


def prepare(
    wishes: Wishes,
    decoder: host.PictureDecoder,
    source: Tensor,
    picture: Tensor,
    located: Located,
    to_samples: Callable[[Tensor], Tensor],
    progress: Callable[[int, Any], None],
    intervals: int,
) -> Prepared:
    """Load everything, look at the person once, and build the refiner.

    Args:
        source: latent of the person's picture, in the space that is refined.
        picture: decoded from it.
        located: where its faces are.
        to_samples: from that space to what the VAE decodes.
        intervals: of the generation that the refiner accompanies; 0 where there is none.
    """
    preset, grid = wishes.preset, (source.shape[-2], source.shape[-1])
    pixels = picture.shape[-2] // grid[0]  # a VAE's cells are as large as it draws them
    options = wishes.options
    tiny = None if options.tiny_vae is None else host.picture_decoder(options.tiny_vae)
    distance, network = _perceptual(options.perceptual, decoder, tiny)
    networks: list[nn.Module] = [encoder.network for encoder in wishes.ensemble.attacked]
    networks += [
        extra for extra in (network, None if tiny is None else tiny.module) if extra is not None
    ]
    networks.append(decoder.module)
    host.load_together(networks)
    first = intervals - preset.attacked if intervals else 0

    def stepped(entry: Step, picture: Tensor) -> None:
        before = (entry.interval - first) * iterates_of(preset)
        progress(
            min(entry.interval + 1, intervals) + before + entry.step, host.picture_preview(picture)
        )

    with host.ordinary_tensors():
        within = None
        if wishes.mask is not None:
            within = latent_mask(wishes.mask.clone(), grid, len(source), pixels)
            within = within[list(located.pictures)] if len(within) > 1 else within
        refiner, window = assemble_refiner(
            preset,
            wishes.ensemble,
            wishes.identity,
            picture[list(located.pictures)],
            located.points.to(picture.device) if len(located.points) else None,
            grid,
            pixels=pixels,
            decode=lambda z: decoder(to_samples(z)),
            decode_tiny=None if tiny is None else (lambda z: tiny(to_samples(z))),
            perceptual=distance,
            within=within,
            one_batch=options.one_batch,
            on_step=stepped,
        )
    region = None if refiner.region is None else refiner.region.cpu()
    acted = blending_mask(region, window, grid, pixels)[:, 0]
    if located.faceless:
        acted = acted.repeat(len(source), 1, 1)
        acted[list(located.faceless)] = 0
        window = replace(window or Window(0, grid[0], 0, grid[1]), pictures=located.pictures)
    worked_on = source if window is None else window.crop(source)
    faces = len(located.points) or len(worked_on)
    shape = to_samples(worked_on).shape
    size = (pixels * shape[-2], pixels * shape[-1])
    need = _working_bytes(wishes, refiner, decoder, tiny, shape, size, faces, network)
    turns = host.Turns(networks, need)
    seen = picture.cpu() * (0.25 + 0.75 * acted[:, None])
    return Prepared(
        refiner, window, acted, seen, turns, first, iterates_of(preset), located.faceless
    )


def _working_bytes(
    wishes: Wishes,
    refiner: Refiner,
    decoder: host.PictureDecoder,
    tiny: host.PictureDecoder | None,
    shape: torch.Size,
    size: tuple[int, int],
    faces: int,
    perceptual: torch.nn.Module | None,
) -> Callable[[], int]:
    """What a refinement works with, at the moment of asking: decoders, recognisers, the perceptual network.

    Args:
        shape: of the latents that are decoded, and ``size`` of the pictures in pixels.
        faces: how many the recognisers see in each view.
    """
    pictures = (shape[0], 3, *size)
    together = wishes.options.one_batch
    views = faces * (1 + wishes.preset.random_views) if together else faces
    each = [
        host.activation_bytes(encoder.network, (views, 3, encoder.size, encoder.size))
        for encoder in wishes.ensemble.attacked
    ]
    looking = sum(each) if together else max(each)
    if perceptual is not None:
        looking += host.activation_bytes(perceptual, pictures)

    def need() -> int:
        if tiny is None or refiner.check is None or refiner.decode is refiner.check:
            return decoder.bytes_needed(shape) + looking
        # The full decoder only checks, when the gradient's memory is free again.
        checking = decoder.bytes_needed(shape, gradients=False)
        return max(tiny.bytes_needed(shape) + looking, checking)

    return need


@lru_cache(maxsize=1)
def _vgg19(path: str) -> VGG19Features:
    with host.ordinary_tensors():
        return vgg19_relu3_4(path)


def _perceptual(
    choice: str, decoder: host.PictureDecoder, tiny: host.PictureDecoder | None
) -> tuple[PerceptualDistance, torch.nn.Module | None]:
    """The perceptual distance, and its network where the host has to load one."""
    path = folders.installed("vgg19")
    if choice == "vgg19" or (choice == "auto" and path is not None):
        network = _vgg19(str(path or folders.required("vgg19")))
        return feature_distance(host.on_its_device(network)), network
    for candidate in (decoder, tiny):
        features = None if candidate is None else candidate.features()
        if features is not None:
            return feature_distance(features), None
    raise FluxGuardError(
        "The visible difference needs VGG19 (vgg19-dcbb9e9d.pth in models/fluxguard/perceptual; "
        "‹run models download vgg19›), or a VAE of TAESD layout such as taef1."
    )
