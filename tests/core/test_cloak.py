"""DADFI: the bound holds by construction, a short training breaks a toy editor, nothing else moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from fluxguard_core.defences.cloak import (
    BOUND,
    Cloak,
    CloakGenerator,
    PatchDiscriminator,
    load_cloak,
    save_cloak,
    soft,
)
from fluxguard_core.defences.cloak_measures import disruption, frechet
from fluxguard_core.defences.cloak_targets import Asked, Deepfake, masked_error, surrogate
from fluxguard_core.defences.cloak_training import (
    CloakPlan,
    CloakRun,
    base_perturbation,
    train_cloak,
    train_step,
)
from fluxguard_core.errors import FluxGuardError


def loud(width: int = 16) -> CloakGenerator:
    """A generator whose raw changes are far beyond any bound."""
    torch.manual_seed(0)
    generator = CloakGenerator(width)
    last = generator.up[-1]
    assert isinstance(last, nn.Conv2d)
    nn.init.normal_(last.weight, 0.0, 2.0)
    return generator.eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(64, 64), (50, 93), (9, 8), (300, 210)])
def test_no_value_moves_beyond_the_bound_whatever_the_size(size: tuple[int, int]) -> None:
    picture = (torch.rand(2, 3, *size) * 255).round() / 255
    cloaked = Cloak(loud(), BOUND)(picture)
    assert cloaked.shape == picture.shape
    moved = (cloaked - picture).abs() * 255
    assert 5.9 < float(moved.max()) < 6.1
    torch.testing.assert_close((cloaked * 255).round(), cloaked * 255, atol=1e-4, rtol=0)


def test_a_mask_bounds_the_cloak_and_a_batch_is_its_pictures() -> None:
    picture, mask = torch.rand(2, 3, 48, 40), torch.zeros(1, 1, 48, 40)
    picture = (picture * 255).round() / 255
    mask[..., 10:30, 10:30] = 1
    cloak = Cloak(loud())
    cloaked = cloak(picture, mask)
    outside = (mask == 0).expand_as(picture)
    assert torch.equal(cloaked[outside], picture[outside]) and not torch.equal(cloaked, picture)
    torch.testing.assert_close(torch.cat([cloak(one[None], mask) for one in picture]), cloaked)


def test_the_generator_is_the_published_shape_and_small() -> None:
    generator = CloakGenerator()
    kinds = [type(layer).__name__ for layer in generator.modules()]
    assert kinds.count("ConvTranspose2d") == 2 and kinds.count("_Residual") == 4
    assert sum(p.numel() for p in generator.parameters()) * 2 < 5_000_000
    assert PatchDiscriminator()(torch.rand(1, 3, 96, 96)).shape[1] == 1


def test_a_cloak_is_read_as_it_was_written(tmp_path: Path) -> None:
    cloak = Cloak(loud(), 4 / 255, "drawn", ("AttGAN", "StarGAN"), 20.5)
    again = load_cloak(save_cloak(tmp_path / "a.safetensors", cloak, {"steps": "3"}))
    assert (again.limit, again.world, again.against) == (4 / 255, "drawn", ("AttGAN", "StarGAN"))
    assert again.eyes == 20.5
    picture = torch.rand(1, 3, 32, 32)
    assert float((again(picture) - cloak(picture)).abs().max()) <= 1.01 / 255
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(FluxGuardError, match="no cloak"):
        load_cloak(tmp_path / "other.safetensors")


class Editor(nn.Module):
    """A small editor with condition planes, trained to shift colours; weights frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(
            nn.Conv2d(5, 12, 3, 1, 1),
            nn.InstanceNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 12, 3, 1, 1),
            nn.InstanceNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 3, 3, 1, 1),
        )
        self.requires_grad_(False)

    def forward(self, pictures: Tensor, conditions: Tensor) -> Tensor:
        planes = F.one_hot(conditions, 2).float()[:, :, None, None]
        planes = planes.expand(-1, -1, *pictures.shape[-2:])
        out: Tensor = self.body(torch.cat((pictures * 2 - 1, planes), 1)).sigmoid()
        return out


def pictures(step: int, generator: torch.Generator) -> Tensor:
    """Smooth blobs on a smooth ground."""
    coarse = torch.rand(4, 3, 4, 4, generator=generator)
    return F.interpolate(coarse, (32, 32), mode="bicubic").clamp(0.1, 0.9)


def toy(name: str = "toy") -> Deepfake:
    return Deepfake(name, 2, Editor())


PLAN = CloakPlan(steps=25, rate=5e-3, width=16, shared=0.25, seed=1, margin=0.5, disrupt=3000.0)


def broken(target: Deepfake, change: Tensor, plain: Tensor) -> float:
    conditions = torch.arange(len(plain)) % 2
    clean = target(plain, conditions)
    return float(masked_error(target((plain + change).clamp(0, 1), conditions), clean).mean())


def test_a_short_training_breaks_more_than_noise_of_the_same_size(tmp_path: Path) -> None:
    target = toy()
    run = CloakRun.fresh(PLAN)
    train_cloak(run, pictures, [target], PLAN, tmp_path / "run.safetensors", lambda line: None)
    plain = pictures(0, torch.Generator().manual_seed(99))
    cloak = Cloak(run.generator.eval(), PLAN.limit)
    change = cloak(plain) - plain
    noise = (torch.rand(plain.shape, generator=torch.Generator().manual_seed(5)) < 0.5).float()
    level = PLAN.limit * (2 * noise - 1)
    assert float(change.abs().max()) <= PLAN.limit + 1e-5
    with torch.no_grad():
        assert broken(target, change, plain) > 2 * broken(target, level, plain)


def test_the_base_perturbation_breaks_within_the_limit_and_starts_off_zero() -> None:
    target = toy()
    adv = base_perturbation(target, pictures, PLAN)
    assert adv.shape == (1, 3, 32, 32) and float(adv.abs().max()) <= PLAN.limit + 1e-7
    plain = pictures(3, torch.Generator().manual_seed(4))
    sign = torch.rand(adv.shape, generator=torch.Generator().manual_seed(6)).sub(0.5).sign()
    with torch.no_grad():
        assert broken(target, adv, plain) > broken(target, sign * adv.abs().mean(), plain)
    deaf = Deepfake("deaf", 1, lambda x, c: torch.zeros_like(x) + 0 * x)
    with pytest.raises(FluxGuardError, match="does not answer"):
        base_perturbation(deaf, pictures, PLAN)


def test_only_the_cloaks_networks_learn() -> None:
    target = toy()
    run = CloakRun.fresh(PLAN)
    run.bases["toy"] = base_perturbation(target, pictures, replace(PLAN, base_steps=1))
    editor = target.make
    assert isinstance(editor, Editor)
    before = {k: v.clone() for k, v in editor.state_dict().items()}
    learned = [p.detach().clone() for net in (run.generator, run.breaks) for p in net.parameters()]
    for step in range(3):
        random = torch.Generator().manual_seed(step)
        train_step(run, pictures(step, random), [target], PLAN, random)
    assert all(torch.equal(v, before[k]) for k, v in editor.state_dict().items())
    after = [p for net in (run.generator, run.breaks) for p in net.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(learned, after, strict=True))


def test_the_estimate_of_queries_points_the_right_way_and_counts() -> None:
    torch.manual_seed(0)
    weight = F.interpolate(torch.randn(1, 3, 8, 8), (16, 16), mode="bilinear")
    model = Deepfake("quadratic", 1, lambda x, c: x)
    asked = Asked(model, pairs=200, side=8)
    x = torch.rand(2, 3, 16, 16) * 0.5 + 0.25

    def score(pictures: Tensor) -> Tensor:
        return (asked(pictures, torch.zeros(2).long()) * weight).sum((1, 2, 3))

    found = asked.gradient(score, x, torch.Generator().manual_seed(1))
    assert float(F.cosine_similarity(found.flatten(1), weight.flatten(1)).min()) > 0.3
    assert asked.queries == 2 * 2 * 200
    y = x.clone().requires_grad_(True)
    surrogate(y, found).backward()
    assert y.grad is not None and torch.equal(y.grad, found)


def test_a_model_that_can_only_be_asked_is_trained_against_too(tmp_path: Path) -> None:
    def asked_only(x: Tensor, conditions: Tensor) -> Tensor:
        with torch.no_grad():
            return Editor()(x, conditions)

    target = Asked(Deepfake("asked", 2, asked_only), pairs=3, side=8)
    plan = replace(PLAN, steps=3, base_steps=2)
    run = CloakRun.fresh(plan)
    train_cloak(run, pictures, [target], plan, tmp_path / "run.safetensors", lambda line: None)
    assert run.queries == target.queries > 0


def test_the_published_hinge_lets_the_change_pass_the_limit_and_pulls_it_back() -> None:
    plan = replace(PLAN, mode="soft", hinge=50.0, disrupt=0.0, rate=5e-3)
    run = CloakRun.fresh(plan)
    run.generator = loud()
    run.generator.requires_grad_(True)
    adam = torch.optim.Adam(run.generator.parameters(), plan.rate)
    run.optimisers = (adam, *run.optimisers[1:])
    raw = soft(run.generator(pictures(0, torch.Generator())), plan.limit).detach()
    assert float(raw.abs().max()) > plan.limit
    seen = []
    for step in range(8):
        random = torch.Generator().manual_seed(step)
        plain = pictures(step, random)
        seen.append(
            train_step(run, plain, [], plan, random, lambda a, b: (a - b).mean((1, 2, 3)))[
                "largest"
            ]
        )
    assert seen[-1] < seen[0]


def test_what_is_louder_than_was_asked_becomes_quieter() -> None:
    plan = replace(PLAN, quiet=PLAN.limit / 4, disrupt=0.0, loud=1000.0, rate=5e-3)
    run = CloakRun.fresh(plan)
    run.generator = loud()
    run.generator.requires_grad_(True)
    adam = torch.optim.Adam(run.generator.parameters(), plan.rate)
    run.optimisers = (adam, *run.optimisers[1:])
    seen = []
    for step in range(8):
        random = torch.Generator().manual_seed(step)
        plain = pictures(step, random)
        seen.append(train_step(run, plain, [], plan, random)["rms"])
    assert seen[-1] < seen[0] <= plan.limit


def test_a_stopped_run_goes_on_and_nothing_to_train_against_is_told(tmp_path: Path) -> None:
    plan = replace(PLAN, steps=4)
    whole, parts = CloakRun.fresh(plan), CloakRun.fresh(plan)
    train_cloak(whole, pictures, [toy()], plan, tmp_path / "a.safetensors", lambda line: None)
    place = tmp_path / "b.safetensors"
    train_cloak(parts, pictures, [toy()], replace(plan, steps=2), place, lambda line: None)
    again = train_cloak(CloakRun.fresh(plan), pictures, [toy()], plan, place, lambda line: None)
    assert again.step == 4
    for a, b in zip(whole.generator.parameters(), again.generator.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(FluxGuardError, match="nothing to train"):
        train_cloak(whole, pictures, [], plan, place, lambda line: None)
    with pytest.raises(FluxGuardError, match="hard or soft"):
        train_cloak(whole, pictures, [toy()], replace(plan, mode="x"), place, lambda line: None)


def test_measures_by_hand() -> None:
    clean = torch.full((2, 3, 4, 4), 0.5)
    off = clean.clone()
    off[0, :, :2] += 0.25  # half of the picture, .5 in [-1, 1]
    found = disruption(off, clean)
    assert found.error == pytest.approx(0.0625) and found.success == 0.5
    assert found.printed == pytest.approx((24 * 0.25) ** 0.5 / 2)
    source = clean.clone()
    source[:, :, :2] -= 0.2  # the model changes the upper half only
    assert disruption(off, clean, source).masked == pytest.approx(0.125)
    torch.manual_seed(0)
    one = torch.randn(500, 3)
    assert frechet(one, one) == pytest.approx(0, abs=1e-6)
    assert frechet(one, one + torch.tensor([2.0, 0, 0])) == pytest.approx(4, abs=1e-6)
    scaled = (one - one.mean(0)) * 3
    expected = float(torch.cov(one.T).trace()) * 4
    assert frechet(one - one.mean(0), scaled) == pytest.approx(expected, rel=1e-4)
