"""Likeness to the eye: HaarPSI against published figures, and what each further figure catches alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.evaluate.haarpsi import haarpsi
from fluxguard_core.evaluate.likeness import Likeness, face_view, heat_picture, likeness
from fluxguard_core.mini.portrait_spec import random_spec
from fluxguard_core.mini.renderer import render
from fluxguard_core.regions.morphology import gaussian_blur

from .tiny import landmarks, noise


@pytest.fixture(scope="module")
def portrait() -> Tensor:
    return render(random_spec(7)).image[None]


def two(height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(1, 3, height, width, generator=generator), torch.rand(
        1, 3, height, width, generator=generator
    )


def test_haarpsi_gives_the_numbers_of_piq() -> None:
    # piq 0.8.0 on the same seeded pictures, one side odd.
    a, b = two(33, 48)
    assert float(haarpsi(a, b)) == pytest.approx(0.4830, abs=1e-4)
    assert float(haarpsi(a, 0.9 * a + 0.1 * b)) == pytest.approx(0.9646, abs=1e-4)
    assert float(haarpsi(a, a)) == pytest.approx(1, abs=1e-3)


def test_haarpsi_is_looked_at_where_the_region_is_and_pulls_back() -> None:
    a, b = two(48, 48)
    mixed = torch.cat([a[..., :24], b[..., 24:]], 3)
    left = torch.zeros(1, 1, 48, 48)
    left[..., :16] = 1
    assert float(haarpsi(mixed, a, left)) > 0.99 > 0.6 > float(haarpsi(mixed, a, 1 - left))
    point = b.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(haarpsi(point, a).sum(), point)
    assert slope.isfinite().all() and float(haarpsi(b + 0.05 * slope.sign(), a)) > float(
        haarpsi(b, a)
    )


def test_haarpsi_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(FluxGuardError, match="at least 16 pixels"):
        haarpsi(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))


def test_an_untouched_photo_is_clean(portrait: Tensor) -> None:
    same = likeness(portrait, portrait, landmarks(portrait.shape[-1]))
    assert same.psnr == math.inf and same.shift == 0 and same.skin == 0
    assert same.verdict == "clean" and same.told().startswith("clean and the same person")


def test_shift_and_skin_are_what_was_added(portrait: Tensor) -> None:
    points = landmarks(portrait.shape[-1])
    portrait = 0.2 + 0.6 * portrait
    brighter = likeness(portrait, portrait + 10 / 255, points)
    assert brighter.shift == pytest.approx(10, abs=0.01) and brighter.skin < 0.01
    assert brighter.psnr == pytest.approx(-20 * math.log10(10 / 255), abs=0.01)
    grain = 4 / 255 * noise(*portrait.shape)
    rough = likeness(portrait, portrait + grain, points)
    view = face_view(portrait, points)
    fine = grain - gaussian_blur(grain, 2.5 * view.pixel)
    assert rough.skin == pytest.approx(255 * float(fine.square().mean().sqrt()), rel=0.06)


def test_figures_mean_the_same_at_any_size(portrait: Tensor) -> None:
    big = torch.nn.functional.interpolate(portrait, scale_factor=4, mode="bicubic").clamp(0, 1)
    change = 6 / 255 * gaussian_blur(noise(*big.shape), 12) / 0.024
    large = likeness(big, big + change, landmarks(big.shape[-1]))
    half = [
        torch.nn.functional.interpolate(x, scale_factor=0.5, mode="bicubic", antialias=True)
        for x in (big, big + change)
    ]
    small = likeness(*half, landmarks(half[0].shape[-1]))
    assert small.shift == pytest.approx(large.shift, rel=0.05)
    assert small.skin == pytest.approx(large.skin, rel=0.05)
    assert small.psnr == pytest.approx(large.psnr, abs=0.2)
    assert small.haarpsi == pytest.approx(large.haarpsi, abs=0.02)


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        ((40, 0.96, 5, 2), "clean"),
        ((38, 0.93, 5, 2), "retouched"),
        ((40, 0.96, 11, 2), "retouched"),
        ((40, 0.96, 13, 2), "altered"),  # another nose, cleanly drawn
        ((40, 0.96, 5, 4), "altered"),
        ((36, 0.89, 5, 2), "altered"),
    ],
)
def test_every_figure_has_a_say(figures: tuple[float, ...], verdict: str) -> None:
    assert Likeness(*figures).verdict == verdict


def test_heat_shows_where(portrait: Tensor) -> None:
    changed = portrait.clone()
    changed[..., :10, :10] = 1 - changed[..., :10, :10]
    heat = heat_picture(portrait, changed)
    assert heat.shape == portrait.shape
    red = heat[:, 0] - heat[:, 2]
    assert red[..., 2:8, 2:8].min() > 0.5 and red[..., 20:, 20:].abs().max() < 1e-5


def test_what_cannot_be_compared_is_refused(portrait: Tensor) -> None:
    with pytest.raises(FluxGuardError, match="one size"):
        likeness(portrait, portrait[..., :-1], landmarks(portrait.shape[-1]))
    with pytest.raises(FluxGuardError, match="too small"):
        likeness(portrait, portrait, landmarks(8))
