"""Shares of the budget, tiles of large pictures, and the terms on an editor with a reference beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fluxguard_core.defences.attention import recorded_reference
from fluxguard_core.defences.edits import EDIT_SHIELDS, shield_edits
from fluxguard_core.defences.kontext import KontextAttentionTerm, KontextEditTerm
from fluxguard_core.defences.shares import texture_share, tiles_of
from fluxguard_core.defences.surrogates import Surrogate, autoencoder_alone, surrogate
from fluxguard_core.errors import FluxGuardError, Interrupted
from fluxguard_core.protect.engine import Draw, Step

from .tiny import noise, tiny_stack, tiny_vae


def picture(height: int = 64, width: int = 64) -> Tensor:
    return (noise(1, 3, height, width, seed=5).sigmoid() * 255).round() / 255


def draw(seed: int = 0) -> Draw:
    return Draw((), torch.Generator().manual_seed(seed))


def alone() -> Surrogate:
    return autoencoder_alone(tiny_vae(), torch.device("cpu"))


def test_smooth_places_get_less_of_the_budget() -> None:
    half = torch.full((1, 3, 64, 128), 128 / 255)
    half[..., 64:] = picture()
    share = texture_share(half, 0.4)
    assert share[..., :32].max() == pytest.approx(0.4, abs=0.01) and share[..., 96:].min() == 1
    assert torch.equal(texture_share(half, 1.0), torch.ones_like(share))
    done = shield_edits(half, alone(), replace(EDIT_SHIELDS["fast"], steps=10, smooth=0.4))
    change = (done.picture - half).abs()
    assert change[..., :32].max() <= 0.41 * 8 / 255 and change[..., 96:].max() > 6 / 255
    with pytest.raises(FluxGuardError, match="smooth share"):
        texture_share(half, 0.0)


@pytest.mark.parametrize("size", [(64, 64), (64, 200), (333, 150)])
def test_tiles_cover_a_picture_and_weigh_every_pixel(size: tuple[int, int]) -> None:
    covered = torch.zeros(1, 1, *size)
    for tile in tiles_of(size, 96, 24):
        part = tile.cut(covered)
        assert part.shape[-2:] == (tile.height, tile.width) and max(part.shape[-2:]) <= 96
        part += tile.weight(24)
    assert covered.min() > 0


def test_a_large_picture_is_shielded_in_tiles() -> None:
    clean, told = picture(80, 150), list[Step]()
    shield = replace(EDIT_SHIELDS["fast"], steps=12, tile=64)
    done = shield_edits(clean, alone(), shield, on_step=lambda step, _: told.append(step))
    tiles = shield.tiles((80, 150))
    assert len(tiles) > 2 and {step.interval for step in told} == set(range(len(tiles)))
    change = (done.picture - clean).abs()
    assert change.max() <= shield.budget + 1e-6 and (change.amax(1) > 0).float().mean() > 0.9
    assert torch.equal((done.picture * 255).round() / 255, done.picture)
    with torch.no_grad():
        apart = (alone().encode(done.picture) - alone().encode(clean)).square().mean().sqrt()
        noisy = clean + shield.budget * torch.sign(noise(*clean.shape, seed=9))
        random = (alone().encode(noisy.clamp(0, 1)) - alone().encode(clean)).square().mean().sqrt()
    assert done.settled is not None
    assert done.settled.figures["latent"]["distance"] == pytest.approx(float(apart), rel=0.5)
    assert apart > random


def test_an_interrupt_keeps_what_is_done_of_the_tiles() -> None:
    def stop(step: Step, seen: Tensor) -> None:
        if step.interval == 1 and step.step == 2:
            raise Interrupted("stopped")

    clean = picture(64, 200)
    shield = replace(EDIT_SHIELDS["fast"], steps=6, tile=96)
    done = shield_edits(clean, alone(), shield, on_step=stop)
    change = (done.picture - clean).abs().amax((0, 1, 2))
    assert done.interrupted and change[:60].min() > 0 and change[-40:].max() == 0


def test_a_mask_that_leaves_a_tile_alone_costs_nothing_there() -> None:
    clean, told = picture(64, 200), list[Step]()
    mask = torch.zeros(1, 1, 64, 200)
    mask[..., :40] = 1
    shield = replace(EDIT_SHIELDS["fast"], steps=3, tile=96)
    done = shield_edits(
        clean, alone(), shield, mask=mask, on_step=lambda step, _: told.append(step)
    )
    assert {step.interval for step in told} == {0}
    assert torch.equal(done.picture[..., 40:], clean[..., 40:])


def test_the_fast_shield_needs_an_autoencoder_only_and_the_others_say_what_lacks() -> None:
    with pytest.raises(FluxGuardError, match="only an autoencoder is here"):
        shield_edits(picture(), alone(), EDIT_SHIELDS["balanced"])


def test_a_transformer_sees_large_pictures_brought_down() -> None:
    model = replace(surrogate(tiny_stack(), "red hair"), pixels=64 * 64)
    assert model.encode_small(picture(128, 128)).shape == (1, 16, 8, 8)
    assert model.encode_small(picture()).shape == (1, 16, 8, 8)
    done = shield_edits(picture(128, 96), model, replace(EDIT_SHIELDS["strong"], steps=2))
    assert done.picture.shape == (1, 3, 128, 96)


def kontext(encode: Surrogate) -> tuple[KontextEditTerm, KontextAttentionTerm]:
    field, clean = encode.prompted, encode.encode(picture()).detach()
    watch = encode.watch_reference
    assert watch is not None
    return (
        KontextEditTerm(encode.encode, lambda: field, clean, field),
        KontextAttentionTerm(encode.encode, lambda: field, watch),
    )


def test_a_reference_lies_beside_the_picture_that_is_made() -> None:
    model = surrogate(tiny_stack(), "red hair")
    field, latent = model.prompted, noise(2, 16, 8, 6, seed=1)
    with torch.no_grad():
        plain = field(latent, 0.8)
        one, other = (field.beside(noise(2, 16, 4, 8, seed=s))(latent, 0.8) for s in (2, 3))
    assert one.shape == plain.shape == latent.shape
    assert not torch.allclose(one, other) and not torch.allclose(one, plain)


def test_shares_of_attention_are_what_the_reference_gets() -> None:
    model = surrogate(tiny_stack(), "red hair")
    latent = noise(1, 16, 8, 8)
    with (
        torch.no_grad(),
        recorded_reference(tiny_stack().transformer, 2, (4, 4)) as recording,
    ):
        model.prompted.beside(latent)(latent, 0.9)
        model.prompted(latent, 0.9)
    shares = torch.stack(recording.shares)
    assert shares.shape == (6, 1)  # three of the four single blocks, twice
    assert (shares[:3] > 0.2).all() and (shares[:3] < 0.8).all() and (shares[3:] == 0).all()


@pytest.mark.parametrize("number", [0, 1], ids=["edit", "attention"])
def test_gradients_through_a_reference_agree_with_finite_differences(number: int) -> None:
    term = kontext(surrogate(tiny_stack(), "red hair"))[number]
    x = (picture() + 0.03 * noise(1, 3, 64, 64, seed=6)).requires_grad_(True)
    (slope,) = torch.autograd.grad(term(x, draw()).loss.sum(), x)
    direction, h = slope.sign(), 5e-4  # where single precision sees the most
    with torch.no_grad():
        ends = [term(x + sign * h * direction, draw()).loss.double() for sign in (1, -1)]
    difference = float((ends[0] - ends[1]) / (2 * h))
    assert float((slope * direction).sum()) == pytest.approx(difference, rel=5e-2)


def test_an_unchanged_picture_is_edited_as_before() -> None:
    edit, attention = kontext(surrogate(tiny_stack(), "red hair"))
    with torch.no_grad():
        assert edit(picture(), draw()).figures["distance"].item() < 1e-5
        assert 0 < attention(picture(), draw()).figures["share"].item() < 1
