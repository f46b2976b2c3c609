"""Who trains on somebody's pictures, on the miniature: a LoRA of one person, and who its pictures show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backends.flux import FluxStack
from ..evaluate.quality import eight_bit
from ..faces.alignment import align
from ..recognition.encoder import FaceEncoder
from .asked import asked
from .captions import caption
from .faces import ATTACKABLE, HELD_OUT, find_faces, load_recogniser
from .loras import beside, block_layers, fresh_loras
from .models import GUIDANCE, describe
from .people import HELD_OUT_WORLD, spec_of
from .portrait_spec import random_attributes
from .renderer import render_batch

SHOTS = 4
"""So many pictures of a person are trained on; as many others say what the person looks like."""
_FIRST = 500  # people of the held-out world before this one measure the networks
_STRANGERS = 900
_SAMPLING = 12
_TIMES = (0.15, 0.95)


@dataclass(frozen=True)
class LoraPlan:
    """How a personal LoRA is trained and asked: the same for every arm.

    Args:
        batch: pictures a step, drawn without repeating one.
        rate: of AdamW, falling to 0 in a straight line.
        pictures: that are made with it.
    """

    steps: int = 140
    batch: int = 2
    rank: int = 8
    rate: float = 1e-2
    pictures: int = 6


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


def strangers_of(person: int) -> Tensor:
    """Somebody else in the shots that ``shots_of`` publishes: same looks, same poses, [SHOTS, 3, 128, 128]."""
    other = spec_of(HELD_OUT_WORLD, _STRANGERS + person, 0).identity
    specs = [spec_of(HELD_OUT_WORLD, _FIRST + person, shot) for shot in range(SHOTS)]
    return eight_bit(render_batch([replace(spec, identity=other) for spec in specs])[0])


def lora_pictures(stack: FluxStack, sets: Tensor, plan: LoraPlan, seed: int = 0) -> Tensor:
    """Train a LoRA on each of G sets of pictures and ask every one for pictures.

    All sets are trained at the same times and noises, with the captions of their own pictures, and none sees another:
    what differs in the results is what the sets hold. Captions and noises of what is made depend on ``seed`` alone.

    Args:
        sets: [G, N, 3, H, W] in [0, 1].

    Returns:
        [G, plan.pictures, 3, H, W]; steps of 0 ask the model as it is.
    """
    generator = torch.Generator().manual_seed(seed)
    count, shots = sets.shape[:2]
    latents = stack.encode(sets.flatten(0, 1)).float().unflatten(0, (count, shots))
    captions = [[describe(one[None]) for one in each] for each in sets]
    layers = block_layers(stack.transformer)
    parameters = fresh_loras(layers, count, plan.rank, seed)
    optimiser = torch.optim.AdamW(parameters, lr=plan.rate, weight_decay=0.0)
    with beside(layers, parameters):
        for step in range(plan.steps):
            for group in optimiser.param_groups:
                group["lr"] = plan.rate * (1 - step / plan.steps)
            rows = torch.randperm(shots, generator=generator)[: plan.batch].tolist()
            field = asked(stack, [each[row] for each in captions for row in rows], 1.0)
            time = _TIMES[0] + (_TIMES[1] - _TIMES[0]) * float(torch.rand(1, generator=generator))
            clean = latents[:, rows]
            noise = torch.randn(clean.shape[1:], generator=generator)
            noisy = (1 - time) * clean + time * noise
            velocity = field(noisy.flatten(0, 1), time).float().unflatten(0, (count, -1))
            # A sum over sets: each set's gradient is what it would be alone.
            loss = (velocity - (noise - clean)).square().mean((1, 2, 3, 4)).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        return _made(stack, count, plan.pictures, seed, latents.shape[2:])


@torch.no_grad()
def _made(stack: FluxStack, sets: int, count: int, seed: int, shape: torch.Size) -> Tensor:
    rng = np.random.default_rng([7, seed])
    captions = [caption(random_attributes(rng)) for _ in range(count)]
    field = asked(stack, captions * sets, GUIDANCE)
    z = torch.randn((count, *shape), generator=torch.Generator().manual_seed(10_000 + seed))
    z = z.repeat(sets, 1, 1, 1)
    for now, after in pairwise(torch.linspace(1, 0, _SAMPLING + 1).tolist()):
        z = z + (after - now) * field(z, now)
    return stack.decode(z.float()).float().unflatten(0, (sets, count))


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
