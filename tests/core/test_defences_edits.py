"""Flatness, dynamic prompts and the terms on a FLUX editor: formulas, gradients, and what they leave alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fluxguard_core.defences.edits import EDIT_SHIELDS, shield_edits
from fluxguard_core.defences.flatness import Flat, neighbour_distance
from fluxguard_core.defences.prompts import DynamicPrompt, Hardened
from fluxguard_core.defences.surrogates import (
    FlowMatchingTerm,
    LatentTerm,
    RedrawTerm,
    ScoreTerm,
    TrajectoryTerm,
    Waypoint,
    surrogate,
)
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.protect.engine import DescentSettings, Draw, Reading, Term, descend
from fluxguard_core.protect.optimisers import SignMomentum
from fluxguard_core.protect.spaces import PixelSpace

from .tiny import noise, tiny_stack


def draw(seed: int = 0) -> Draw:
    return Draw((), torch.Generator().manual_seed(seed))


def picture(seed: int = 0, count: int = 1) -> Tensor:
    return (noise(count, 3, 64, 64, seed=seed).sigmoid() * 255).round() / 255


def encode(x: Tensor) -> Tensor:
    from fluxguard_core.backends.flux import encode_image

    return encode_image(tiny_stack().vae, x)


@dataclass
class Bowl:
    """L = sum of weight · x³ plus the draw's noise: the gradient of a neighbour differs and is known."""

    weight: Tensor
    seen: list[Tensor] = field(default_factory=list)
    name: str = "bowl"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        shift = torch.randn(1, generator=draw.generator)
        self.seen.append(shift)
        gained = (self.weight * (picture + shift) ** 3).flatten(1).sum(1)
        return Reading(-gained)


def test_flatness_is_the_published_formula() -> None:
    x, reach, ratio = picture(count=2).double(), 0.7, 0.3
    term = Bowl(noise(1, 3, 64, 64, seed=4).double())
    point = x.clone().requires_grad_(True)
    reading = Flat(term, reach, ratio)(point, draw())
    (g,) = torch.autograd.grad(reading.loss.sum(), point)
    assert torch.equal(term.seen[0], term.seen[1])  # the same noise at both points

    def gained(at: Tensor) -> tuple[Tensor, Tensor]:
        at = at.clone().requires_grad_(True)
        value = (term.weight * (at + term.seen[0]) ** 3).flatten(1).sum(1)
        return value.detach(), torch.autograd.grad(value.sum(), at)[0]

    value, slope = gained(x)
    s = slope / slope.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    ahead, further = gained(x + reach * s)
    z = ahead - value
    expected = -slope + ratio * z.sign().reshape(-1, 1, 1, 1) * (further - slope)
    torch.testing.assert_close(g, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(reading.loss.detach(), -value + ratio * z.abs())
    # The same by autograd alone, through J = -L + (λ/h)·|L(x + h·s) - L(x)| with s held.
    at = x.clone().requires_grad_(True)
    here = (term.weight * (at + term.seen[0]) ** 3).flatten(1).sum(1)
    there = (term.weight * (at + reach * s + term.seen[0]) ** 3).flatten(1).sum(1)
    j = (-here + ratio * (there - here).abs()).sum()
    torch.testing.assert_close(torch.autograd.grad(j, at)[0], g, rtol=1e-6, atol=1e-9)


def test_without_a_difference_it_is_the_plain_gradient() -> None:
    @dataclass
    class Slope:
        """L rises alike everywhere across the ray of its own gradient, but for |x| on both sides of 0."""

        steep: float
        name: str = "slope"

        def __call__(self, picture: Tensor, draw: Draw) -> Reading:
            return Reading(-self.steep * picture.flatten(1).sum(1).abs())

    x = torch.zeros(1, 3, 8, 8, requires_grad=True)
    for term, at in ((Slope(0.0), x + 0.2), (Slope(1.0), x + 0.2)):
        (plain,) = torch.autograd.grad(term(at, draw()).loss.sum(), x, retain_graph=True)
        (flat,) = torch.autograd.grad(Flat(term, 0.5)(at, draw()).loss.sum(), x)
        assert torch.equal(plain, flat)  # z = 0 for the first; ∇L(x + h·s) = ∇L(x) for the second
        assert flat.isfinite().all()
    assert neighbour_distance(8 / 255, torch.Size((2, 3, 10, 10)), 0.1) == pytest.approx(
        0.1 * 8 / 255 * 300**0.5
    )


def prompted(radius: float | None = None, tokens: int | None = None) -> DynamicPrompt:
    return DynamicPrompt(tiny_stack().field("give her red hair", 1.0), radius, tokens=tokens)


def terms(prompt: DynamicPrompt, clean: Tensor) -> list[Term]:
    latent = encode(clean).detach()
    e = noise(*latent.shape, seed=8)
    points = []
    for time in (0.3, 0.8):
        z = (1 - time) * latent + time * e
        with torch.no_grad():
            points.append(Waypoint(time, z, prompt.field(z, time).float()))
    return [
        LatentTerm(encode, latent),
        ScoreTerm(encode, prompt),
        FlowMatchingTerm(encode, prompt),
        TrajectoryTerm(encode, prompt, latent, points),
        RedrawTerm(encode, prompt, latent, prompt.field),
    ]


NAMES = ("latent", "score", "flow matching", "trajectory", "redraw")


@pytest.mark.parametrize("number", range(5), ids=NAMES)
def test_each_term_is_raised_by_a_descent_within_the_budget(number: int) -> None:
    clean = picture(3)
    term = terms(prompted(), clean)[number]
    plain, generator = draw(), torch.Generator().manual_seed(1)
    space = PixelSpace(clean, 8 / 255, generator=generator)
    before = term(space.project(space.start()), plain).loss.item()
    settings = DescentSettings(steps=12)
    done = descend(space, [term], SignMomentum(2 / 255), settings, draw=lambda: draw(5))
    after = term(done.variable, draw()).loss.item()
    assert after < before and (done.variable - clean).abs().max() <= 8 / 255 + 1e-6


@pytest.mark.parametrize("number", (0, 2, 3, 4), ids=[NAMES[i] for i in (0, 2, 3, 4)])
def test_gradients_agree_with_finite_differences(number: int) -> None:
    clean = picture(3)
    term = terms(prompted(), clean)[number]
    x = (clean + 0.03 * noise(*clean.shape, seed=6)).requires_grad_(True)
    direction = noise(*clean.shape, seed=7)
    (slope,) = torch.autograd.grad(term(x, draw()).loss.sum(), x)
    h = 3e-3
    with torch.no_grad():
        ends = [term(x + sign * h * direction, draw()).loss.double() for sign in (1, -1)]
    difference = float((ends[0] - ends[1]) / (2 * h))
    assert float((slope * direction).sum()) == pytest.approx(difference, rel=3e-2)


def test_the_score_is_the_residual_through_the_encoder_alone() -> None:
    """Its gradient is r^T dE/dx, whatever the transformer's own derivative is."""
    clean, prompt = picture(3), prompted()
    term = ScoreTerm(encode, prompt)
    x = clean.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(term(x, draw()).loss.sum(), x)
    latent = encode(x)
    generator = torch.Generator().manual_seed(0)
    time = 0.2 + 0.7 * float(torch.rand(1, generator=generator))
    e = torch.randn(latent.shape, generator=generator)
    with torch.no_grad():
        z = (1 - time) * latent + time * e
        r = prompt()(z, time).float() - (e - latent)
    (expected,) = torch.autograd.grad((-(r * latent).flatten(1).mean(1)).sum(), x)
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-8)


def test_hardening_weakens_the_defence_within_its_radius_and_leaves_padding_alone() -> None:
    clean = picture(3)
    prompt = prompted(tokens=3)
    term = terms(prompt, clean)[3]
    shielded = (clean + 6 / 255 * noise(*clean.shape, seed=9).sign()).clamp(0, 1)
    base = prompt.field.context.clone()
    before = -term(shielded, draw()).loss.item()
    prompt.harden(term, shielded, draw())
    after = -term(shielded, draw()).loss.item()
    assert after < before
    radius = 0.1 * base[:, :3].square().mean().sqrt()
    assert 0 < prompt.change.abs().max() <= radius + 1e-6
    assert prompt.change[:, 3:].abs().max() == 0
    assert torch.equal(prompt.field.context, base)


def test_the_clean_velocities_never_move_with_the_prompt() -> None:
    clean = picture(3)
    prompt = prompted()
    term = terms(prompt, clean)[3]
    assert isinstance(term, TrajectoryTerm)
    kept = [point.velocity.clone() for point in term.waypoints]
    prompt.harden(term, clean + 0.01, draw())
    assert all(torch.equal(a, b.velocity) for a, b in zip(kept, term.waypoints, strict=True))


def test_the_prompt_is_hardened_every_so_many_steps_only() -> None:
    clean = picture(3)
    prompt = prompted()
    plain = terms(prompt, clean)[3]
    hardened = Hardened(Flat(plain, 0.1), plain, prompt, every=3)
    moved = []
    descend(
        PixelSpace(clean, 8 / 255, generator=torch.Generator().manual_seed(2)),
        [hardened],
        SignMomentum(1 / 255),
        DescentSettings(steps=7),
        draw=draw,
        on_step=lambda entry, _: moved.append(prompt.change.clone()),
    )
    changes = [not torch.equal(a, b) for a, b in pairwise(moved)]
    assert changes == [False, False, True, False, False, True]


def test_a_distance_without_a_random_start_is_told_to_be_dead() -> None:
    """The trap of the published algorithm: at d = 0 nothing pulls, and it would never move."""
    clean = picture(3)
    term = LatentTerm(encode, encode(clean).detach())
    space = PixelSpace(clean, 8 / 255, random_start=False)
    with pytest.raises(Exception, match="has been zero for 3 steps"):
        descend(space, [term], SignMomentum(1 / 255), DescentSettings(), draw=draw)


@pytest.mark.parametrize("name", EDIT_SHIELDS)
def test_every_shield_stays_in_its_budget_and_spoils_what_it_asks_for(name: str) -> None:
    clean, stack = picture(5, count=2), tiny_stack()
    shield = replace(EDIT_SHIELDS[name], steps=8, every=3)
    mask = torch.ones(1, 1, 64, 64)
    mask[..., :16] = 0
    told: list[int] = []
    model = surrogate(stack, "red hair")
    done = shield_edits(
        clean, model, shield, mask=mask, on_step=lambda step, _: told.append(step.step)
    )
    change = done.picture - clean
    assert change.abs().max() <= shield.budget + 1e-6 and change[..., :16].abs().max() == 0
    assert torch.equal((done.picture * 255).round() / 255, done.picture)
    assert told == list(range(8)) and done.settled is not None
    first, last = (done.log[i].losses for i in (0, -1))
    assert sum(last.values()) < sum(first.values())
    again = shield_edits(clean, model, shield, mask=mask)
    assert torch.equal(again.picture, done.picture)


def test_the_weights_are_the_same_afterwards() -> None:
    stack = tiny_stack()
    before = {k: v.clone() for k, v in stack.transformer.state_dict().items()}
    for name in ("strong", "kontext"):
        shield_edits(picture(5), surrogate(stack, "red hair"), replace(EDIT_SHIELDS[name], steps=3))
    after = stack.transformer.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_dynamic_prompt_without_a_way_back_is_refused() -> None:
    shield = replace(EDIT_SHIELDS["balanced"], dynamic=True)
    with pytest.raises(FluxGuardError, match="way back through the transformer"):
        shield_edits(picture(5), surrogate(tiny_stack(), "red hair"), shield)
