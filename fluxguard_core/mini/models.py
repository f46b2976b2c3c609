"""The miniature as everything a protection needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..pipelines.models import Models
from ..protect.perceptual import Features, feature_distance
from ..recognition.ensemble import Ensemble
from .captions import caption, parse_caption
from .faces import classify_attributes, find_faces, load_ensemble, parse_face
from .portrait_spec import Attributes
from .text import CONCEPTS
from .world import load_stack

SIZE = 128
# Edits arrive from 2.5 on; at FLUX.1-dev's 5.5 they grow beyond themselves and take the face along.
GUIDANCE = 2.5
# Brings the features' squared distance to where the published τ = 0.3 binds: SSIM of about 0.9.
FEATURE_SCALE = 300**0.5


def miniature(ensemble: Ensemble | None = None, device: str = "cpu") -> Models:
    """Load the miniature world.

    Args:
        ensemble: recognisers; the default attacks three and holds MobileFace and the ViT out.
    """
    stack = load_stack(device)
    # The autoencoder is itself a tiny one: the fast preset needs no other.
    stack = replace(stack, tiny_vae=stack.vae)
    return Models(
        name="miniature",
        stack=stack,
        ensemble=ensemble or load_ensemble(held_out=["mobileface"]),
        find_faces=find_faces,
        perceptual=feature_distance(encoder_features(stack.vae)),
        parse_face=parse_face,
        phrases=CONCEPTS,
        describe=describe,
        complete=complete,
        size=SIZE,
        guidance=GUIDANCE,
    )


def use_one_thread() -> None:
    """For commands that run the miniature alone, at one speed on quiet and on busy machines.

    So narrow a network gains little from a second CPU thread, and beside another job it loses much: the threads
    wait for each other.
    """
    torch.set_num_threads(1)


def describe(picture: Tensor) -> str:
    """The caption of one portrait [1, 3, H, W], as the attribute classifier sees it."""
    return caption(Attributes(**classify_attributes(picture)[0]))


def complete(source_prompt: str, prompt: str) -> str:
    """The full caption after an edit: what ``prompt`` says, and the source's word on everything else.

    A bald head that is asked for a colour of hair gets short hair of it.
    """
    before, asked = parse_caption(source_prompt), parse_caption(prompt)
    if "hair_colour" in asked and before.get("hair_style") == "bald":
        before["hair_style"] = "short"
    return caption(Attributes(**{**before, **asked}))


def encoder_features(vae: Any) -> Features:
    """Features [B, C, H/4, W/4] from the autoencoder's own encoder: edges, parts and colours."""
    layers = vae.encoder.layers
    strided = [i for i, layer in enumerate(layers) if getattr(layer, "stride", (1, 1)) == (2, 2)]
    trunk = torch.nn.Sequential(*layers[: strided[2]])

    def features(picture: Tensor) -> Tensor:
        return FEATURE_SCALE * trunk(picture)

    return features
