"""A visibility budget holds the protection of an edit as well: every step, and the picture that comes out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.evaluate.likeness import Likeness, likeness
from fluxguard_core.mini.faces import find_faces
from fluxguard_core.mini.models import miniature
from fluxguard_core.mini.portrait_spec import random_spec, with_attributes
from fluxguard_core.mini.renderer import render
from fluxguard_core.mini.world import reconstruct
from fluxguard_core.pipelines.photo import Wishes, protect_photo
from fluxguard_core.protect.held import HeldLatentSpace, budgets, held_picture
from fluxguard_core.protect.presets import PHOTO_PRESETS, PRESETS
from fluxguard_core.protect.spaces import LatentSpace

BARE = with_attributes(random_spec(9), lipstick="none")
BUDGET = PHOTO_PRESETS["default"].budget


def portrait(seed: int = 7) -> tuple[Tensor, Tensor]:
    picture = reconstruct(render(random_spec(seed)).image[None])
    points = find_faces(picture[0])[0].landmarks
    assert points is not None
    return picture, points


def held(look: Likeness) -> bool:
    """Within the default's bounds, but for what rounding moves."""
    psnr, haarpsi = look.psnr, look.haarpsi
    shift, skin = look.shift, look.skin
    return psnr >= 37.4 and haarpsi >= 0.918 and shift <= 8.2 and skin <= 2.6


def test_a_latents_pictures_are_held_and_its_change_is_scaled() -> None:
    picture, points = portrait()
    decode = lambda z: torch.nn.functional.interpolate(z[:, :3], scale_factor=8.0)  # noqa: E731
    clean = torch.nn.functional.avg_pool2d(picture, 8)
    looks = decode(clean)
    region = torch.zeros(1, 1, 16, 16)
    region[..., 4:12, 4:12] = 0.5
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    base = clean + 0.2 * noise * (region > 0)
    inner = LatentSpace(base, decode, region=region)
    space = HeldLatentSpace(inner, clean, looks, budgets(looks, points, BUDGET))
    variable = (0.3 * noise).requires_grad_()
    shown = space.picture(variable)
    assert held(likeness(looks, shown.detach(), points))
    assert not held(likeness(looks, inner.picture(variable).detach(), points))
    (slope,) = torch.autograd.grad(shown.mean(), variable)
    assert float(slope.abs().max()) > 0
    projected = space.project(variable.detach())
    before, after = (space.latent(x.detach()) - clean for x in (variable, projected))
    factor = after[..., 4:12, 4:12] / before[..., 4:12, 4:12]
    assert 0 < float(factor.median()) < 0.9
    assert torch.allclose(factor, factor.median().expand_as(factor), atol=1e-3)
    still = space.project(
        torch.zeros_like(variable) - 0.2 * noise / 0.5
    )  # no change is left as it is
    assert torch.allclose(space.latent(still), clean, atol=1e-5)


def test_an_edits_protection_keeps_the_budget() -> None:
    models, picture = miniature(), render(BARE).image[None]
    short = replace(PRESETS["default"], intervals=4, attacked=2)
    short = replace(short, refiner=replace(short.refiner, steps=3, learning_rate=0.4))
    wishes = Wishes("a person wearing red lipstick", preset=short)
    free = protect_photo(models, picture, wishes, measuring=None)
    bound = protect_photo(models, picture, replace(wishes, budget=BUDGET), measuring=None)
    points = free.job.face.landmarks
    assert points is not None
    looks = [likeness(x.outcome.edited, x.outcome.protected, points) for x in (free, bound)]
    assert not held(looks[0]) and held(looks[1])
    assert not torch.equal(bound.outcome.protected, bound.outcome.edited)


def test_a_picture_is_brought_into_the_budget() -> None:
    picture, points = portrait(8)
    kept = held_picture(picture, (picture + 0.2).clamp(0, 1), points, BUDGET)
    assert held(likeness(picture, kept, points))
    assert torch.equal(held_picture(picture, picture, points, BUDGET), picture)


def test_the_budget_needs_to_know_the_face() -> None:
    models, picture = miniature(), render(BARE).image[None]
    wishes = Wishes("a person wearing red lipstick", preset=PRESETS["paper"], budget=BUDGET)
    with pytest.raises(FluxGuardError, match="whose faces are known"):
        protect_photo(models, picture, wishes, measuring=None)
