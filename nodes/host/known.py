"""Which faces the host's own models know: the miniature's files are told by their shape, whatever they are called."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...fluxguard_core.worlds import World
from .flux import Model, flux_layout

_MINIATURE = (256, 2, 6)  # width, double and single blocks of the miniature's FLUX


def model_world(model: Model) -> World:
    """What a FLUX.1 MODEL knows."""
    layout = flux_layout(model)
    shape = (layout.width, layout.double_blocks, layout.single_blocks)
    return "drawn" if shape == _MINIATURE else "photo"


def vae_world(vae: Any) -> World:
    """What a VAE knows: the miniature's is a narrow one, padded with channels that are never written."""
    encoder = getattr(vae.first_stage_model, "taesd_encoder", None)
    if encoder is None:
        return "photo"
    first = next(layer for layer in encoder if isinstance(layer, nn.Conv2d))
    rows = first.weight.detach().flatten(1).abs().amax(1)
    return "drawn" if bool((rows == 0).any()) else "photo"
