"""The engine alone: spaces, optimisers, terms of a user's own, and what it does when nothing pulls."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fluxguard_core.errors import FluxGuardError, Interrupted
from fluxguard_core.faces.alignment import whole_frame
from fluxguard_core.protect.engine import (
    Descent,
    DescentSettings,
    Draw,
    Optimiser,
    Reading,
    Space,
    Step,
    descend,
)
from fluxguard_core.protect.identity import identity_term
from fluxguard_core.protect.optimisers import Adam, SignMomentum
from fluxguard_core.protect.refiner import Branches, Refiner, RefinerSettings
from fluxguard_core.protect.spaces import LatentSpace, PixelSpace
from fluxguard_core.protect.views import AlignedViews, whole_frame_views
from fluxguard_core.recognition.identity import untargeted

from .tiny import landmarks, noise, tiny_ensemble, tiny_stack


@dataclass(frozen=True)
class Brightness:
    """A term of a user's own: the mean grey value has to come to a level."""

    level: float
    name: str = "brightness"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        value = picture.flatten(1).mean(1)
        return Reading(
            (value - self.level).abs(), (value - self.level).abs() < 0.01, {"grey": value}
        )


def draw() -> Draw:
    return Draw((whole_frame,), torch.Generator().manual_seed(0))


def run(space: Space, optimiser: Optimiser | None = None, **given: object) -> Descent:
    settings = DescentSettings(**{"steps": 40, "keep_best": True, **given})  # type: ignore[arg-type]
    return descend(
        space, [Brightness(0.6)], optimiser or SignMomentum(1 / 255), settings, draw=draw
    )


def on_grid(shape: tuple[int, ...]) -> Tensor:
    return (noise(*shape).sigmoid() * 0.4 * 255).round() / 255


def test_pixels_descend_within_their_budget_and_end_on_the_grid() -> None:
    source = on_grid((2, 3, 16, 16))
    for optimiser in (SignMomentum(1 / 255), SignMomentum(1 / 255, 0.9), Adam(0.01)):
        done = run(PixelSpace(source, 12 / 255), optimiser)
        change = done.variable - source
        assert change.abs().max() <= 12 / 255 + 1e-6 and change.mean() > 10 / 255
        assert torch.equal((done.variable * 255).round() / 255, done.variable)
        assert done.settled is not None
        measured = float(done.variable.flatten(1).mean(1).mean())
        assert done.settled.figures["brightness"]["grey"] == pytest.approx(measured, abs=1e-5)


def test_sign_steps_can_shrink_to_a_hundredth() -> None:
    rule, at = SignMomentum(0.1, shrink_over=4), torch.zeros(1)
    steps = []
    for _ in range(6):
        after = rule.step(at, torch.ones(1))
        steps.append(float(at - after))
        at = after
    assert steps == pytest.approx([0.1, 0.075, 0.05, 0.025, 0.001, 0.001], abs=1e-6)
    rule.reset()
    assert float(at - rule.step(at, torch.ones(1))) == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize("budget", [0.5, 2.0])
def test_the_l2_budget_holds_after_rounding_too(budget: float) -> None:
    source = on_grid((2, 3, 16, 16))
    done = run(PixelSpace(source, budget, "l2"), Adam(0.02))
    lengths = (done.variable - source).flatten(1).norm(dim=1)
    assert (lengths <= budget + 1e-5).all() and (lengths > 0.5 * budget).all()


def test_the_mask_shares_the_budget_out() -> None:
    source, mask = on_grid((1, 3, 16, 16)), torch.zeros(1, 1, 16, 16)
    mask[..., :8], mask[..., 8:12] = 1.0, 0.5
    change = (run(PixelSpace(source, 8 / 255, mask=mask)).variable - source).abs()
    assert change[..., 12:].max() == 0
    assert change[..., :8].max() <= 8 / 255 + 1e-6 and change[..., 8:12].max() <= 4 / 255 + 1e-6
    assert change[..., :8].mean() > 1.5 * change[..., 8:12].mean() > 0


def test_it_stops_when_every_goal_is_met_and_keeps_the_cheapest() -> None:
    @dataclass(frozen=True)
    class Cost:
        source: Tensor
        name: str = "cost"

        def __call__(self, picture: Tensor, draw: Draw) -> Reading:
            return Reading((picture - self.source).square().flatten(1).mean(1))

    source = torch.full((2, 3, 8, 8), 0.5)
    space = PixelSpace(source, 0.5, random_start=False, grid=False)
    settings = DescentSettings(steps=60, keep_best=True, patience=3)
    done = descend(
        space,
        [Brightness(0.6), Cost(source)],
        SignMomentum(1 / 255),
        settings,
        draw=draw,
        weights={"cost": lambda readings: 0.1 * readings["brightness"].loss},
    )
    assert len(done.log) < 40 and [entry.met for entry in done.log[-3:]] == [True] * 3
    assert not any(entry.met for entry in done.log[:-3])
    # Of those that met the goal the first one had changed the picture least.
    assert done.variable.mean() == pytest.approx(0.6, abs=0.0101)
    assert float(done.variable.mean()) < 0.6
    assert done.log[0].weights["cost"] == pytest.approx(0.01, rel=1e-3)


def test_each_picture_keeps_its_own_best() -> None:
    """One picture reaches the goal early and is pulled away again by nothing; its twin never does."""
    source = torch.stack([torch.full((3, 8, 8), 0.58), torch.full((3, 8, 8), 0.2)])
    both = run(PixelSpace(source, 0.1, random_start=False, grid=False)).variable
    alone = [
        run(PixelSpace(one[None], 0.1, random_start=False, grid=False)).variable for one in source
    ]
    assert torch.equal(both, torch.cat(alone))


def test_several_draws_are_averaged_before_a_step() -> None:
    @dataclass(frozen=True)
    class Noisy:
        """Its gradient points up or down by the draw's randomness."""

        name: str = "noisy"

        def __call__(self, picture: Tensor, draw: Draw) -> Reading:
            sign = torch.randn(1, generator=draw.generator)
            return Reading(((0.2 + sign) * picture).flatten(1).mean(1), figures={"sign": sign})

    generator = torch.Generator().manual_seed(1)
    done = descend(
        PixelSpace(torch.full((1, 3, 4, 4), 0.5), 0.2, random_start=False, grid=False),
        [Noisy()],
        SignMomentum(0.01),
        DescentSettings(steps=1, draws=64),
        draw=lambda: Draw((), generator),
    )
    again = torch.Generator().manual_seed(1)
    signs = torch.cat([torch.randn(1, generator=again) for _ in range(64)])
    assert done.log[0].figures["noisy"]["sign"] == pytest.approx(float(signs.mean()), abs=1e-5)
    assert done.variable.mean() == pytest.approx(0.5 - 0.01 * float((0.2 + signs.mean()).sign()))


@dataclass(frozen=True)
class Broken:
    scale: float
    name: str = "broken"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        met = torch.zeros(len(picture), dtype=torch.bool)
        return Reading(1 + self.scale * picture.flatten(1).sum(1), met)


def test_no_gradient_and_no_number_are_errors_in_words() -> None:
    space, settings = PixelSpace(torch.full((1, 3, 4, 4), 0.5)), DescentSettings(steps=10)
    with pytest.raises(FluxGuardError, match="has been zero for 3 steps"):
        descend(space, [Broken(0.0)], Adam(), settings, draw=draw)
    with pytest.raises(FluxGuardError, match="loss became NaN"):
        descend(space, [Broken(float("nan"))], Adam(), settings, draw=draw)


def test_a_gradient_that_vanishes_at_the_goal_is_no_fault() -> None:
    @dataclass(frozen=True)
    class Hinge:
        name: str = "hinge"

        def __call__(self, picture: Tensor, draw: Draw) -> Reading:
            loss = (picture.flatten(1).mean(1) - 0.6).clamp(min=0)
            return Reading(loss, loss == 0)

    space = PixelSpace(torch.full((1, 3, 4, 4), 0.5), random_start=False)
    done = descend(space, [Hinge()], Adam(), DescentSettings(steps=9), draw=draw)
    assert len(done.log) == 9 and done.log[-1].met


def test_an_interrupt_returns_the_best_so_far() -> None:
    def stop(entry: Step, picture: Tensor) -> None:
        if entry.step == 4:
            raise Interrupted("stopped")

    source = on_grid((1, 3, 8, 8))
    done = descend(
        PixelSpace(source, 12 / 255),
        [Brightness(0.9)],
        SignMomentum(),
        DescentSettings(steps=40, keep_best=True),
        draw=draw,
        on_step=stop,
    )
    assert done.interrupted is not None and len(done.log) == 5
    assert done.variable.mean() > source.mean()


def test_the_same_terms_work_on_latents_and_on_pixels() -> None:
    """The recogniser term in both spaces, side by side, without the refiner."""
    stack, latent = tiny_stack(), noise(1, 16, 8, 8)
    picture = stack.decode_tiny(latent).detach()
    views = AlignedViews(landmarks(), random=0)
    term = identity_term(tiny_ensemble(), untargeted(), picture, views.plain)
    look = Draw((views.plain,), torch.Generator())
    seeded = torch.Generator().manual_seed(0)
    for space, rate in (
        (LatentSpace(latent, stack.decode_tiny, jitter=0.02, generator=seeded), 0.05),
        (PixelSpace(picture, 16 / 255, random_start=False), 0.01),
    ):
        settings = DescentSettings(steps=15, keep_best=True)
        done = descend(space, [term], Adam(rate), settings, draw=lambda: look)
        first, after = done.log[0].losses["identity"], term(space.picture(done.variable), look).loss
        assert after.item() < 0.5 * first


def test_a_second_term_joins_the_refiner_without_a_change_to_the_engine() -> None:
    latent, stack = noise(1, 16, 8, 8), tiny_stack()
    picture = stack.decode_tiny(latent).detach()
    still = torch.zeros_like(latent)
    ends = []
    for further in ((), (Brightness(0.9),)):
        refiner = Refiner(
            stack.decode_tiny,
            identity_term(tiny_ensemble(), untargeted(), picture, whole_frame),
            lambda reference: lambda seen: (seen - reference).square().flatten(1).mean(1),
            whole_frame_views,
            RefinerSettings(steps=30, learning_rate=0.1, jitter=0.02),
            further=further,
            weights={"brightness": 50.0},
        )
        refined = refiner(Branches(latent, latent, still, still, 0.0, 0))
        ends.append(stack.decode_tiny(refined.latent).mean())
    assert ends[1] > ends[0] + 0.02
    assert "brightness" in refined.descent.log[0].losses
