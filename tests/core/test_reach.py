"""How far an edit's mask is felt in pixels, on the miniature: what the docs say of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fluxguard_core.backends.flux import FluxStack
from fluxguard_core.flow import (
    ValueInjection,
    VelocityFusion,
    flux_schedule,
    generate,
    invert,
)
from fluxguard_core.mini.portrait_spec import random_spec
from fluxguard_core.mini.renderer import render
from fluxguard_core.mini.world import load_stack

# Levels of 255 beside the mask and 8, 16, 24 and 32 pixels off it; of six edits (seeds 7, 11, 23, 349, 9300001 and
# 9300002) the largest, rounded up. docs/comfyui.md repeats them.
TOLD = (32, 19, 8, 2, 1)


@pytest.fixture(scope="module")
def stack() -> FluxStack:
    return load_stack()


def change_by_distance(stack: FluxStack, seed: int) -> tuple[float, list[float]]:
    """Largest change of a latent value outside the mask, and of a pixel (of 255) from so many cells off it."""
    latent = stack.encode(render(random_spec(seed)).image[None])
    side = latent.shape[-1]
    record = invert(
        stack.field("a person", 1.0), latent, flux_schedule(10, (side // 2) ** 2), value_intervals=2
    )
    mask = torch.zeros(1, 1, side, side)
    mask[..., 9:13, 5:11] = 1
    edited = generate(
        stack.field("a person with red lipstick", 5.5),
        record,
        [ValueInjection(record, 2), VelocityFusion(record, mask)],
    )
    with torch.no_grad():
        change = (255 * (stack.decode(edited) - stack.decode(latent))).abs().amax(1)[0]
    kept = ((edited - latent) * (1 - mask)).abs().max()
    return float(kept), [float(change[beyond(mask, cells)].max()) for cells in range(5)]


def beyond(mask: Tensor, cells: int) -> Tensor:
    """Pixels [H, W] that are more than so many latent cells outside a mask."""
    grown = F.max_pool2d(mask, 2 * cells + 1, 1, cells)
    return F.interpolate(grown, scale_factor=8)[0, 0] == 0


@pytest.mark.parametrize("seed", [23, 349])
def test_latents_are_exact_and_pixels_near_the_mask_are_not(stack: FluxStack, seed: int) -> None:
    kept, changes = change_by_distance(stack, seed)
    assert kept < 1e-6
    for change, told in zip(changes, TOLD, strict=True):
        assert change < told, changes
    assert changes[0] > TOLD[0] / 2


def test_the_docs_repeat_them() -> None:
    text = " ".join((Path(__file__).parents[2] / "docs/comfyui.md").read_text("utf-8").split())
    told = [str(levels) for levels in TOLD]
    assert f"up to {told[0]} of 255 levels beside the mask" in text
    assert (
        f"{told[1]}, {told[2]}, {told[3]} and {told[4]} from 8, 16, 24 and 32 pixels off it" in text
    )
