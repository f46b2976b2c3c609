"""Stand-ins for personal training, attention maps, and the shield against both."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fluxguard_core.defences.adapters import adapters, attention_layers, fit
from fluxguard_core.defences.attention import recorded_attention
from fluxguard_core.defences.surrogates import Surrogate, surrogate
from fluxguard_core.defences.training import (
    NAMES,
    TRAINING_SHIELDS,
    AttentionTerm,
    shield_training,
)
from fluxguard_core.errors import Interrupted
from fluxguard_core.protect.engine import Draw, Step

from .tiny import noise, tiny_stack


def pictures(count: int = 2) -> list[Tensor]:
    """Of different sizes."""
    return [
        (noise(1, 3, 64, 64 + 16 * i, seed=3 + i).sigmoid() * 255).round() / 255
        for i in range(count)
    ]


def model() -> Surrogate:
    return surrogate(tiny_stack(), "a photo of sks person")


def weights() -> dict[str, Tensor]:
    return {key: value.clone() for key, value in tiny_stack().transformer.state_dict().items()}


def unchanged(before: dict[str, Tensor]) -> bool:
    after = tiny_stack().transformer.state_dict()
    return list(after) == list(before) and all(
        torch.equal(after[key], before[key]) for key in before
    )


def test_attention_rows_sum_to_one_and_are_what_the_model_computes() -> None:
    stack = tiny_stack()
    field = stack.field("a photo of sks person", 1.0)
    latent = noise(2, 16, 8, 8)
    with torch.no_grad():
        plain = field(latent, 0.5)
        with recorded_attention(stack.transformer, 5, (4, 4)) as recording:
            watched = field(latent, 0.5)
    assert torch.equal(plain, watched) and len(recording.maps) == 1 + 4
    for seen in recording.maps:
        assert seen.cross.shape == (2, 16, 5) and seen.own.shape == (2, 16, 16)
        total = seen.cross.sum(-1) + seen.own.sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        field(latent, 0.5)
    assert len(recording.maps) == 5  # nothing listens any more


@pytest.mark.parametrize("trouble", [None, KeyboardInterrupt, RuntimeError])
def test_the_base_weights_are_bit_identical_afterwards(trouble: type[BaseException] | None) -> None:
    before, stack = weights(), tiny_stack()
    flags = [p.requires_grad for p in stack.transformer.parameters()]
    field, latents = stack.field("a photo of sks person", 1.0), noise(2, 16, 8, 8)
    with torch.no_grad():
        expected = field(latents, 0.5)

    def work() -> None:
        with adapters(attention_layers(stack.transformer), NAMES) as (_, dynamic):
            assert len(dynamic.pairs) == 4 + 3 * 4
            with torch.no_grad():
                assert torch.equal(field(latents, 0.5), expected)
            fit(
                dynamic,
                field,
                latents.split(1),
                3,
                torch.Generator().manual_seed(0),
                learning_rate=1e-2,
            )
            with torch.no_grad():
                assert not torch.equal(field(latents, 0.5), expected)
            if trouble is not None:
                raise trouble

    if trouble is None:
        work()
    else:
        with pytest.raises(trouble):
            work()
    assert unchanged(before)
    assert [p.requires_grad for p in stack.transformer.parameters()] == flags
    with torch.no_grad():
        assert torch.equal(field(latents, 0.5), expected)


def test_fitting_lowers_the_training_error() -> None:
    stack, latents = tiny_stack(), 0.5 * noise(1, 16, 8, 8)
    field = stack.field("a photo of sks person", 1.0)
    layers = attention_layers(stack.transformer)
    with adapters(layers, NAMES[:1], rank=8) as (adapter,):
        losses = fit(
            adapter, field, [latents], 60, torch.Generator().manual_seed(0), learning_rate=2e-2
        )
    assert sum(losses[-15:]) < 0.9 * sum(losses[:15])


def test_the_attention_of_two_stand_ins_differs_only_once_one_is_trained() -> None:
    shown = model()
    field, encode, watch = shown.prompted, shown.encode, shown.watch
    assert watch is not None
    clean = encode(pictures(1)[0]).detach()
    with adapters(shown.layers, NAMES) as (static, dynamic):
        term = AttentionTerm(encode, clean, field, watch, static, dynamic)
        differences = []
        for _ in range(2):
            with torch.no_grad():
                reading = term(pictures(1)[0], Draw((), torch.Generator().manual_seed(1)))
            differences.append(reading.figures["difference"].item())
            fit(static, field, [clean], 4, torch.Generator().manual_seed(0), learning_rate=2e-2)
    assert differences[0] == pytest.approx(0, abs=1e-10) and differences[1] > 1e-6


@pytest.mark.parametrize("name", TRAINING_SHIELDS)
def test_shields_stay_in_their_budget_and_raise_what_a_trainer_sees(name: str) -> None:
    before, clean = weights(), pictures()
    shield = replace(TRAINING_SHIELDS[name], epochs=2, static_steps=2)
    mask = torch.ones(1, 1, 64, 64)
    mask[..., :16] = 0
    masks = [mask, None]
    both = shield_training(clean, model(), shield, masks=masks)
    for source, done in zip(clean, both, strict=True):
        change = done.picture - source
        assert change.abs().max() <= shield.budget + 1e-6 and done.picture.shape == source.shape
        assert torch.equal((done.picture * 255).round() / 255, done.picture)
        assert {step.interval for step in done.log} == {0, 1}
        assert len(done.log) == shield.steps
        assert done.settled is not None
        told = done.settled.figures["trainer"]
        assert told["error after"] > told["error before"]
    assert (both[0].picture - clean[0])[..., :16].abs().max() == 0
    assert (both[1].picture - clean[1])[..., :16].abs().max() > 0
    assert unchanged(before)
    again = shield_training(clean, model(), shield, masks=masks)
    assert all(torch.equal(a.picture, b.picture) for a, b in zip(again, both, strict=True))


@pytest.mark.parametrize("name", TRAINING_SHIELDS)
def test_pictures_of_one_batch_take_their_steps_together(name: str) -> None:
    clean = torch.cat([pictures(1)[0], pictures(1)[0].flip(-1)])
    shield = replace(TRAINING_SHIELDS[name], epochs=2, static_steps=2)
    (done,) = shield_training([clean], model(), shield)
    assert done.picture.shape == clean.shape and len(done.log) == shield.steps
    moved = (done.picture - clean).abs().flatten(1).amax(1)
    assert (moved > 1 / 255).all() and (moved <= shield.budget + 1e-6).all()
    assert done.settled is not None
    told = done.settled.figures["trainer"]
    assert told["error after"] > told["error before"]


def test_an_interrupt_keeps_what_is_there_and_cleans_up() -> None:
    before, clean = weights(), pictures()
    seen: list[Step] = []

    def stop(step: Step, picture: Tensor) -> None:
        seen.append(step)
        if len(seen) == 4:
            raise Interrupted("stopped")

    done = shield_training(
        clean, model(), replace(TRAINING_SHIELDS["full"], static_steps=0), on_step=stop
    )
    assert all(one.interrupted for one in done) and unchanged(before)
    assert sum(len(one.log) for one in done) == 4
    assert all(float((a.picture - b).abs().max()) > 0 for a, b in zip(done, clean, strict=True))
