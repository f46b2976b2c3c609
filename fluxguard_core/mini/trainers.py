"""Who trains on somebody's pictures, on the miniature: a LoRA of one person, and who its pictures show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..backends.flux import FluxField, FluxStack, Prompt
from ..defences.adapters import adapters
from ..evaluate.quality import eight_bit
from ..faces.alignment import align
from ..recognition.encoder import FaceEncoder
from .captions import caption
from .faces import ATTACKABLE, HELD_OUT, find_faces, load_recogniser
from .models import GUIDANCE, describe
from .people import HELD_OUT_WORLD, spec_of
from .portrait_spec import random_attributes
from .renderer import render_batch

SHOTS = 4
"""So many pictures of a person are trained on; as many others say what the person looks like."""
_FIRST = 500  # people of the held-out world before this one measure the networks
_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_mlp", "proj_out", "net.0.proj", "net.2")
_SAMPLING = 12


@dataclass(frozen=True)
class LoraPlan:
    """How a personal LoRA is trained and asked: the same for every arm."""

    steps: int = 80
    rank: int = 8
    rate: float = 4e-3
    pictures: int = 8


@dataclass(frozen=True)
class Shown:
    """Who the pictures of a LoRA show.

    Args:
        found: share of pictures in which the detector finds a face (FDR; lower is a stronger shield).
        match: share of found faces that recognisers take for the person, at a false accept rate of 1e-2.
        similarity: mean cosine of found faces to the person (ISM), over recognisers; None without a face.
    """

    found: float
    match: float
    similarity: float | None


def shots_of(person: int) -> tuple[Tensor, Tensor]:
    """Pictures of somebody that no network was trained on: those to publish and others, each [SHOTS, 3, 128, 128]."""
    specs = [spec_of(HELD_OUT_WORLD, _FIRST + person, shot) for shot in range(2 * SHOTS)]
    images = eight_bit(render_batch(specs)[0])
    return images[:SHOTS], images[SHOTS:]


def lora_pictures(stack: FluxStack, pictures: Tensor, plan: LoraPlan, seed: int = 0) -> Tensor:
    """Train a LoRA on pictures [N, 3, H, W] with their captions; what it then makes [plan.pictures, 3, H, W].

    Captions and noises of what is made depend on ``seed`` alone. Steps of 0 ask the model as it is.
    """
    generator = torch.Generator().manual_seed(seed)
    latents = stack.encode(pictures)
    field = _asked(stack, [describe(one[None]) for one in pictures], 1.0)
    layers = [
        module
        for name, module in stack.transformer.named_modules()
        if isinstance(module, nn.Linear)
        and "transformer_blocks." in name
        and name.endswith(_TARGETS)
    ]
    with adapters(layers, ("personal",), rank=plan.rank, seed=seed) as (personal,):
        personal.use()
        parameters = [parameter.requires_grad_(True) for parameter in personal.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=plan.rate, weight_decay=0.0)
        for step in range(plan.steps):
            for group in optimiser.param_groups:
                group["lr"] = plan.rate * (1 - step / plan.steps)
            time = 0.05 + 0.93 * float(torch.rand(1, generator=generator))
            noise = torch.randn(latents.shape, generator=generator)
            velocity = field((1 - time) * latents + time * noise, time).float()
            loss = (velocity - (noise - latents)).square().mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        return _made(stack, plan.pictures, seed, latents.shape)


def _asked(stack: FluxStack, prompts: Sequence[str], guidance: float) -> FluxField:
    """The field at one prompt a picture."""
    every = [stack.encode_prompt(prompt) for prompt in prompts]
    joined = Prompt(torch.cat([p.context for p in every]), torch.cat([p.pooled for p in every]))
    return replace(stack.field("", guidance), prompt=joined)


@torch.no_grad()
def _made(stack: FluxStack, count: int, seed: int, shape: torch.Size) -> Tensor:
    rng = np.random.default_rng([7, seed])
    field = _asked(stack, [caption(random_attributes(rng)) for _ in range(count)], GUIDANCE)
    z = torch.randn((count, *shape[1:]), generator=torch.Generator().manual_seed(10_000 + seed))
    for now, after in pairwise(torch.linspace(1, 0, _SAMPLING + 1).tolist()):
        z = z + (after - now) * field(z, now)
    return stack.decode(z.float())


def judges() -> tuple[FaceEncoder, ...]:
    """Every recogniser of the miniature: the shield against training asks none of them."""
    return tuple(load_recogniser(name) for name in (*ATTACKABLE, *HELD_OUT))


@torch.no_grad()
def shown(made: Tensor, others: Tensor, recognisers: Sequence[FaceEncoder]) -> Shown:
    """Who pictures [B, 3, H, W] show, against other pictures of the person."""
    faces, known = _cut(made), _cut(others)
    matches, cosines = [], []
    for recogniser in recognisers:
        person = _vectors(known, recogniser).mean(0)
        person = person / person.norm()
        for vector in _vectors(faces, recogniser) if faces else ():
            cosine = float(vector @ person)
            cosines.append(cosine)
            matches.append(cosine > recogniser.threshold())
    return Shown(
        len(faces) / len(made),
        sum(matches) / len(matches) if matches else 0.0,
        sum(cosines) / len(cosines) if cosines else None,
    )


def _cut(pictures: Tensor) -> list[tuple[Tensor, Any]]:
    found = [(picture, find_faces(picture)) for picture in pictures]
    return [(picture, faces[0].landmarks) for picture, faces in found if faces]


def _vectors(faces: Sequence[tuple[Tensor, Any]], recogniser: FaceEncoder) -> Tensor:
    cut = [
        align(picture[None], points.reshape(1, 5, 2), recogniser.crop) for picture, points in faces
    ]
    return recogniser(torch.cat(cut))
