"""The face grid, and the shield against encoders that clone a face."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fluxguard_core.defences.cloning import (
    CloneShield,
    FaceGridSpace,
    limit_of,
    shield_cloning,
)
from fluxguard_core.errors import Interrupted
from fluxguard_core.faces.alignment import align
from fluxguard_core.protect.engine import Step
from fluxguard_core.recognition.encoder import FaceEncoder, Strangers
from fluxguard_core.recognition.ensemble import Ensemble

from .tiny import landmarks, noise

SHIELD = CloneShield(steps=80, step_size=2 / 255)


class Normed(nn.Module):
    """A random network with instance norms, which small changes can turn; without them it hardly moves."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers: list[nn.Module] = []
            for before, after in ((3, 16), (16, 32), (32, 32)):
                layers += [
                    nn.Conv2d(before, after, 3, 2, 1),
                    nn.InstanceNorm2d(after),
                    nn.LeakyReLU(0.1),
                ]
            self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
            self.head = nn.Linear(32 * 16, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def ensemble() -> Ensemble:
    return Ensemble(
        (FaceEncoder("a", Normed(1), 112), FaceEncoder("b", Normed(2), 112)),
        (FaceEncoder("judge", Normed(3), 112),),
    )


def picture(size: int = 160) -> Tensor:
    smooth = torch.nn.functional.interpolate(noise(1, 3, 20, 20), (size, size), mode="bicubic")
    return ((smooth.sigmoid() * 255).round() / 255).clamp(0, 1)


def faces(count: int = 1) -> Tensor:
    points = landmarks(80)
    return torch.cat([points + torch.tensor([75.0 * i, 20.0 + 5 * i]) for i in range(count)])


def test_a_change_on_the_grid_comes_back_through_the_alignment() -> None:
    space = FaceGridSpace(picture(), faces(), 0.1, 112, torch.Generator())
    smooth = torch.nn.functional.interpolate(noise(1, 3, 8, 8), (112, 112), mode="bicubic").clamp(
        -1, 1
    )
    change = space.change(0.1 * smooth)
    back = align(change, faces(), 112)
    inner = (slice(None), slice(None), slice(8, 104), slice(8, 104))
    assert float((back - 0.1 * smooth)[inner].abs().max()) < 0.02
    assert change.abs().max() <= 0.1 + 1e-6


def test_outside_the_faces_nothing_changes() -> None:
    clean = picture()
    done = shield_cloning(clean, faces(), ensemble(), CloneShield(steps=3))
    outside = (done.region == 0).expand_as(clean)
    assert outside.any() and torch.equal(done.picture[outside], clean[outside])
    assert float(done.region.mean()) < 0.9


@pytest.mark.parametrize("count", [1, 2])
def test_every_attacked_encoder_comes_below_the_limit_and_then_it_stops(count: int) -> None:
    clean, team = picture(), ensemble()
    calls: list[str] = []
    team.held_out[0].network.register_forward_hook(lambda *_: calls.append("judge"))
    done = shield_cloning(clean, faces(count), team, SHIELD)
    assert done.settled is not None and done.settled.met
    assert all(
        value < SHIELD.limit for value in done.settled.figures["likeness to the person"].values()
    )
    assert len(done.log) < SHIELD.steps and not calls
    assert (done.picture - clean).abs().max() <= SHIELD.budget + 1e-6
    assert torch.equal((done.picture * 255).round() / 255, done.picture)


def test_a_limit_may_be_told_in_spreads_of_strangers() -> None:
    plain = FaceEncoder("a", Normed(1), 112)
    known = replace(plain, strangers=Strangers(0.8, 0.02, "made up for tests"))
    shield = CloneShield(spreads=3.0)
    assert limit_of(known, shield) == pytest.approx(0.86)
    assert limit_of(known, CloneShield()) == limit_of(plain, shield) == CloneShield.limit
    done = shield_cloning(picture(), faces(), Ensemble((known,)), replace(SHIELD, spreads=3.0))
    assert done.settled is not None and done.settled.met
    (seen,) = done.settled.figures["likeness to the person"].values()
    assert SHIELD.limit < seen < 0.86  # it stopped there, and went no further


def test_an_interrupt_keeps_the_best_so_far() -> None:
    def stop(step: Step, seen: Tensor) -> None:
        if step.step == 6:
            raise Interrupted("stopped")

    done = shield_cloning(picture(), faces(), ensemble(), SHIELD, on_step=stop)
    assert done.interrupted and len(done.log) == 7 and done.settled is not None
    first = done.log[0].losses["likeness to the person"]
    assert done.settled.losses["likeness to the person"] < first
