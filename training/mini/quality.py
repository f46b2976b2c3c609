"""Figures of the shipped miniature on people that no network has seen."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import torch
from safetensors import safe_open
from torch import Tensor

from fluxguard_core.backends.flux import FluxStack, image_ids, pack, unpack
from fluxguard_core.evaluate.quality import psnr, ssim
from fluxguard_core.flow import flux_schedule, generate, invert
from fluxguard_core.mini.captions import caption, parse_caption
from fluxguard_core.mini.faces import ATTACKABLE, HELD_OUT, classify_attributes, weights_path
from fluxguard_core.mini.people import HELD_OUT_WORLD, spec_of
from fluxguard_core.mini.portrait_spec import Attributes, PortraitSpec
from fluxguard_core.mini.renderer import render_batch

# Behind the people on whom recognisers are calibrated.
FIRST_PERSON = 10_000
STEPS = 25
GUIDANCE = 3.5


def held_out_specs(count: int, first: int = 0) -> list[PortraitSpec]:
    """Portraits of `count` people, from number `first` on, outside every training and calibration set."""
    return [spec_of(HELD_OUT_WORLD, FIRST_PERSON + first + i, 0) for i in range(count)]


def _mean(measure: Callable[[Tensor, Tensor], float], a: Tensor, b: Tensor) -> float:
    values = [measure(a[i : i + 1], b[i : i + 1]) for i in range(len(a))]
    return sum(values) / len(values)


@torch.no_grad()
def autoencoder_quality(stack: FluxStack, count: int) -> dict[str, float]:
    """PSNR in dB and SSIM of decode(encode(x)), means over pictures."""
    images, _, _ = render_batch(held_out_specs(count))
    output = stack.decode(stack.encode(images))
    return {"psnr": _mean(psnr, output, images), "ssim": _mean(ssim, output, images)}


@torch.no_grad()
def draw(
    stack: FluxStack,
    prompts: list[str],
    *,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    seed: int = 0,
    size: int = 128,
) -> Tensor:
    """Pictures [B,3,size,size] for prompts, by Euler steps from seeded noise."""
    generator = torch.Generator().manual_seed(seed)
    side = size // 8
    z = torch.randn(len(prompts), 16, side, side, generator=generator).to(stack.device)
    grid = flux_schedule(steps, (side // 2) ** 2).tolist()
    encoded = [stack.encode_prompt(p) for p in prompts]
    context = torch.cat([p.context for p in encoded]).to(stack.device)
    pooled = torch.cat([p.pooled for p in encoded]).to(stack.device)
    tokens = pack(z)
    for now, then in itertools.pairwise(grid):
        velocity = stack.transformer(
            hidden_states=tokens,
            encoder_hidden_states=context,
            pooled_projections=pooled,
            timestep=torch.full((len(z),), now, device=stack.device),
            guidance=torch.full((len(z),), guidance, device=stack.device),
            img_ids=image_ids(side // 2, side // 2, stack.device),
            txt_ids=torch.zeros(context.shape[1], 3, device=stack.device),
            return_dict=False,
        )[0]
        tokens = tokens + (then - now) * velocity
    return stack.decode(unpack(tokens, side, side))


def agreement(attributes: list[Attributes], images: Tensor) -> dict[str, float]:
    """Share of pictures that show what was asked, by attribute and as mean over all of them.

    Asked is every attribute: a full caption names what is there, the rest is absent. Hair colour
    does not count under a bald head, nor hair style under a hat.
    """
    hits: dict[str, list[bool]] = {}
    for wanted, seen in zip(attributes, classify_attributes(images), strict=True):
        named = parse_caption(caption(wanted))
        for name, value in seen.items():
            hidden = (name == "hair_colour" and name not in named) or (
                name == "hair_style" and wanted.hat != "none"
            )
            if not hidden:
                hits.setdefault(name, []).append(value == getattr(wanted, name))
    every = [hit for values in hits.values() for hit in values]
    shares = {name: sum(values) / len(values) for name, values in hits.items()}
    return {"all": sum(every) / len(every), **shares}


def sample_quality(stack: FluxStack, count: int, guidance: float = GUIDANCE) -> dict[str, float]:
    """Agreement of samples with their captions; and of real renderings, which bounds it."""
    specs = held_out_specs(count)
    attributes = [s.attributes for s in specs]
    prompts = [caption(a) for a in attributes]
    found = [
        draw(stack, prompts[i : i + 20], guidance=guidance, seed=i) for i in range(0, count, 20)
    ]
    bound = agreement(attributes, render_batch(specs)[0])["all"]
    return {**agreement(attributes, torch.cat(found)), "classifier_on_renderings": bound}


@torch.no_grad()
def inversion_quality(stack: FluxStack, count: int, steps: int = STEPS) -> dict[str, float]:
    """Inversion and regeneration with the same prompt at guidance 1, midpoint rule."""
    specs = held_out_specs(count)
    images, _, _ = render_batch(specs)
    plain, inverted = [], []
    for i, spec in enumerate(specs):
        image = images[i : i + 1]
        latent = stack.encode(image)
        field = stack.field(caption(spec.attributes), 1.0)
        sigmas = flux_schedule(steps, latent.shape[-1] * latent.shape[-2] // 4)
        again = generate(field, invert(field, latent, sigmas, value_intervals=0))
        plain.append(psnr(stack.decode(latent), image))
        inverted.append(psnr(stack.decode(again), image))
    return {
        "autoencoder_psnr": sum(plain) / count,
        "inversion_psnr": sum(inverted) / count,
    }


def recogniser_quality() -> dict[str, float]:
    """True accept rate at FAR 1e-2 by recogniser, on people it was not trained on.

    Measured when a recogniser is made, across attributes, pose and light, and kept in its file.
    """
    found: dict[str, float] = {}
    for name in ATTACKABLE + HELD_OUT:
        with safe_open(weights_path(name), "pt") as file:
            facts = file.metadata()
        rates = [entry["far"] for entry in json.loads(facts["thresholds"])]
        found[facts["name"]] = json.loads(facts["accept"])[rates.index(0.01)]
    return found
