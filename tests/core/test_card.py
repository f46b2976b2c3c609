"""Everything that computes, on a card that is not there: nothing meets a tensor of the CPU, nothing asks for what a
device lacks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import kornia.filters  # noqa: F401  (ahead of the card, for importing it computes)
import kornia.metrics  # noqa: F401
import pytest
import torch
from torch import Tensor, nn

from fluxguard_core import devices
from fluxguard_core.backends.flux import FluxStack, Prompt
from fluxguard_core.backends.flux_concepts import flux_concepts
from fluxguard_core.defences.attgan_files import AttGAN
from fluxguard_core.defences.attgan_training import AttGANPlan, AttGANRun
from fluxguard_core.defences.attgan_training import train_step as attgan_step
from fluxguard_core.defences.attribute_edit import AttributeEditor, edited, framed, labels_between
from fluxguard_core.defences.cloak import Cloak, CloakGenerator
from fluxguard_core.defences.cloak_faces import (
    attribute_fake,
    difference_seen,
    drawn_from,
    recognise_in_frame,
)
from fluxguard_core.defences.cloak_measures import disruption, frechet
from fluxguard_core.defences.cloak_targets import Asked
from fluxguard_core.defences.cloak_training import CloakPlan, CloakRun, train_cloak
from fluxguard_core.defences.cloning import CloneShield, shield_cloning
from fluxguard_core.defences.edits import EDIT_SHIELDS, EditShield, shield_edits
from fluxguard_core.defences.surrogates import Surrogate, surrogate
from fluxguard_core.defences.training import TRAINING_SHIELDS, TrainingShield, shield_training
from fluxguard_core.evaluate.haarpsi import haarpsi
from fluxguard_core.evaluate.likeness import face_view, heat_picture, likeness
from fluxguard_core.evaluate.quality import quality
from fluxguard_core.evaluate.transforms import SHARING
from fluxguard_core.flow import Storage, ValueInjection, VelocityFusion, flux_schedule, invert
from fluxguard_core.mini.faces import load_recogniser
from fluxguard_core.protect.assemble import assemble_refiner
from fluxguard_core.protect.perceptual import VGG19Features, feature_distance
from fluxguard_core.protect.photo import Autoencoder, protect_pixels
from fluxguard_core.protect.presets import PHOTO_PRESETS, PRESETS
from fluxguard_core.protect.run import edit_and_protect
from fluxguard_core.protect.visibility import VisibilityBudget
from fluxguard_core.recognition import untargeted
from fluxguard_core.recognition.ensemble import Ensemble
from fluxguard_core.regions import bisenet_parser, clipseg, segformer_parser

from .card import CARD, OTHER, Card, without_a_kernel
from .test_attgan import SMALL, batch_of
from .test_region_sources import bisenet_state, clipseg_folder, segformer_folder
from .tiny import encode_words, landmarks, noise, tiny_ensemble, tiny_stack, tiny_taesd

# As on NVIDIA's cards, but for float64; and what lacks most.
LACKS = {
    "xpu": (torch.float64,),
    "mps": (torch.float64, torch.float8_e4m3fn, torch.float8_e5m2),
}


@pytest.fixture(params=LACKS)
def card(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    """A card of each kind, open; on a Mac's nothing may run that PyTorch has no kernel for."""
    kind = request.param
    can = replace(devices.abilities(kind), asynchronous=False)
    monkeypatch.setitem(devices._TABLE, "cpu", can)
    with Card(*LACKS[kind]) as card:
        yield card
    assert card.names
    if kind == "mps":
        assert sorted(card.names & without_a_kernel()) == []


def picture(size: int = 64) -> Tensor:
    return ((noise(1, 3, size, size, seed=5).sigmoid() * 255).round() / 255).to(CARD)


def on_card(module: nn.Module, place: torch.device = CARD) -> Any:
    return copy.deepcopy(module).to(place)


def ensemble() -> Ensemble:
    def there(members: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(replace(e, network=on_card(e.network)) for e in members)

    plain = tiny_ensemble()
    return Ensemble(there(plain.attacked), there(plain.held_out))


class Places(nn.Module):
    """Rotary places computed elsewhere: diffusers takes float64 for them, but where it is told that this is a Mac."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor) -> Any:
        return tuple(part.to(ids.device) for part in self.inner(ids.cpu()))


def stack(place: torch.device = CARD) -> FluxStack:
    plain = tiny_stack()
    transformer = on_card(plain.transformer, place)
    transformer.pos_embed = Places(transformer.pos_embed)

    def encode(text: str) -> Prompt:
        words = encode_words(text or "nothing")
        return Prompt(words.context.to(place), words.pooled.to(place))

    return replace(
        plain,
        transformer=transformer,
        vae=on_card(plain.vae, place),
        tiny_vae=on_card(tiny_taesd(), place),
        encode_prompt=encode,
        device=place,
    )


def model() -> Surrogate:
    return surrogate(stack(), "a photo of sks person")


@pytest.mark.parametrize("preset", ["paper", "default", "fast"])
def test_an_edit_and_its_protection(card: Card, preset: str) -> None:
    flux, photo, points = stack(), picture(), landmarks()
    latent = flux.encode(photo)
    record = invert(
        flux.field("a face", 1.0),
        latent,
        flux_schedule(4, 16),
        value_intervals=2,
        value_storage=Storage("cpu", "fp8"),
    )
    mask = torch.ones(1, 1, 8, 8)
    refiner, window = assemble_refiner(
        replace(PRESETS[preset], refiner=replace(PRESETS[preset].refiner, steps=2)),
        ensemble(),
        untargeted(),
        photo,
        points,
        (8, 8),
        pixels=8,
        decode=flux.decode,
        perceptual=feature_distance(on_card(VGG19Features().eval().requires_grad_(False))),
        decode_tiny=flux.decode_tiny,
        source=latent,
        budget=VisibilityBudget() if preset == "default" else None,
    )
    made = edit_and_protect(
        flux.field("a red face", 5.5),
        record,
        (ValueInjection(record, 2), VelocityFusion(record, mask)),
        refiner,
        attacked_intervals=2,
        window=window,
    )
    assert made.protected.device == CARD and made.protected.isfinite().all()


@pytest.mark.parametrize("coder", [False, True])
@pytest.mark.parametrize("size", [96, 480])
def test_a_photo_as_it_is(card: Card, coder: bool, size: int) -> None:
    tiny = on_card(tiny_taesd())
    codec = Autoencoder(
        encode=lambda x: tiny.encode(x, return_dict=False)[0],
        decode=lambda z: tiny.decode(z, return_dict=False)[0],
    )
    photo = picture(size)
    mask = torch.ones(1, 1, size, size)
    preset = replace(PHOTO_PRESETS["default"], steps=3)
    done = protect_pixels(
        photo,
        ensemble(),
        landmarks(size),
        preset,
        autoencoder=codec if coder else None,
        mask=mask,
        warm=photo * 0.99,
    )
    assert done.picture.device == CARD and not torch.equal(done.picture, photo)


SHIELDS = {
    **EDIT_SHIELDS,
    "trajectory": EditShield("trajectory", {"trajectory": 1.0, "flow matching": 0.5}, dynamic=True),
    "tiles": replace(EDIT_SHIELDS["fast"], tile=48, smooth=0.5),
}


@pytest.mark.parametrize("name", SHIELDS)
def test_a_shield_against_edits(card: Card, name: str) -> None:
    shield = replace(SHIELDS[name], steps=2, every=1, hardening=1, intervals=3, waypoints=(0.5,))
    photo = picture()
    done = shield_edits(photo, model(), shield, mask=torch.ones(1, 1, 64, 64))
    assert done.picture.device == CARD and not torch.equal(done.picture, photo)


def short(name: str) -> TrainingShield:
    shield = TRAINING_SHIELDS[name]
    attention = min(1, shield.attention)
    return replace(
        shield, epochs=1, static_steps=1, fitting=1, attention=attention, conditional=2 - attention
    )


@pytest.mark.parametrize("name", TRAINING_SHIELDS)
def test_a_shield_against_training(card: Card, name: str) -> None:
    shield = short(name)
    photos = [picture(), picture(80)]
    done = shield_training(photos, model(), shield, masks=[None, torch.ones(1, 1, 80, 80)])
    assert all(d.picture.device == CARD for d in done)


class Away:
    """A field whose transformer lies on another card, as ComfyUI may place it: latents go there and come back."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.layout, self.context = inner, inner.layout, inner.context

    def at(self, context: Tensor) -> Away:
        return Away(self.inner.at(context))

    def beside(self, reference: Tensor) -> Away:
        return Away(self.inner.beside(reference.to(OTHER)))

    def __call__(self, latent: Tensor, sigma: float, tap: Any = None) -> Tensor:
        return self.inner(latent.to(OTHER), sigma, tap).to(latent)


def apart() -> Surrogate:
    """The autoencoder on one card, the transformer on another."""
    here, there = surrogate(stack()), surrogate(stack(OTHER), "a photo of sks person")
    return replace(there, encode=here.encode, device=CARD, field=Away(there.field))


@pytest.mark.parametrize("name", ["strong", "kontext", "full"])
def test_a_shield_whose_transformer_lies_on_another_card(card: Card, name: str) -> None:
    if name == "full":
        shield = short(name)
        assert shield_training([picture()], apart(), shield)[0].picture.device == CARD
    else:
        small = replace(EDIT_SHIELDS[name], steps=2, every=1, hardening=1)
        assert shield_edits(picture(), apart(), small).picture.device == CARD


def test_attention_is_pooled_on_any_grid(card: Card) -> None:
    """A picture of 18 x 20 tokens, which are no multiples of the 16 that attention is pooled to."""
    shield = short("full")
    photo = ((noise(1, 3, 288, 320).sigmoid() * 255).round() / 255).to(CARD)
    assert shield_training([photo], model(), shield)[0].picture.device == CARD


def test_a_shield_against_cloning(card: Card) -> None:
    done = shield_cloning(picture(), landmarks(), ensemble(), CloneShield(steps=2))
    assert done.picture.device == CARD


def editor() -> AttributeEditor:
    run = AttGANRun.fresh(SMALL, AttGANPlan(1, device=str(CARD)))
    gan = AttGAN(run.generator.eval(), run.critic.eval(), "drawn")
    return AttributeEditor.of("small", gan)


def test_attributes_change(card: Card) -> None:
    small, photo = editor(), picture()
    seen = framed(small, photo, landmarks()[0], torch.ones(1, 1, 64, 64))
    before = labels_between({"Red": 0.0, "Dark": 1.0}, {}, {}, small.attributes)
    after = labels_between({"Red": 0.0, "Dark": 1.0}, {"Red": 1.0}, {}, small.attributes)
    assert small.classify(seen.face).device == CARD
    changed = edited(small, seen, before, after)
    assert changed.device == CARD and not torch.equal(changed, photo)


@pytest.mark.parametrize("taught", [0.0, 1.0])
def test_attgan_trains(card: Card, taught: float) -> None:
    plan = AttGANPlan(4, critic_steps=1, device=str(CARD), taught=taught, alone=0.25)
    run = AttGANRun.fresh(SMALL, plan)

    def draw(step: int, generator: torch.Generator) -> Any:
        batch = batch_of()
        there = {k: getattr(batch, k).to(CARD) for k in ("pictures", "labels", "wanted")}
        return replace(batch, **there, answers=there["pictures"].flip(3))

    for _ in range(4):
        attgan_step(run, draw, plan)


def test_a_cloak_is_applied(card: Card) -> None:
    cloak = Cloak(on_card(CloakGenerator(8).eval().requires_grad_(False)))
    for size in (64, 300):
        photo = picture(size)
        made = cloak(photo, torch.ones(1, 1, size, size))
        assert made.device == CARD and not torch.equal(made, photo)


@pytest.mark.parametrize("asked", [False, True])
def test_a_cloak_is_trained(card: Card, asked: bool, tmp_path: Path) -> None:
    fake = attribute_fake(editor())
    target = Asked(fake, pairs=1) if asked else fake
    faces = (noise(3, 3, 128, 128).sigmoid() * 255).byte()
    plan = CloakPlan(2, width=8, device=str(CARD), shared=1.0, base_steps=1)
    run = CloakRun.fresh(plan)
    train_cloak(
        run,
        drawn_from(faces, 2),
        [target],
        plan,
        tmp_path / "c.checkpoint",
        lambda line: None,
        recognise=recognise_in_frame(ensemble()),
        look=difference_seen,
    )


def test_figures_of_likeness_and_closeness(card: Card) -> None:
    photo = picture(96)
    changed = (photo + 0.02).clamp(0, 1)
    assert likeness(photo, changed, landmarks(96)).psnr < 40
    assert haarpsi(photo, changed).device == CARD
    assert heat_picture(photo, changed).device == CARD
    assert face_view(photo, landmarks(96)).texture.device == CARD
    assert quality(photo, changed, torch.zeros(1, 1, 96, 96)).psnr < 40
    assert disruption(photo, changed, photo).error > 0
    assert frechet(photo.flatten(2)[0].T, changed.flatten(2)[0].T) >= 0
    for transform in SHARING:
        assert transform(photo).device == CARD


def test_where_words_are(card: Card) -> None:
    seen = flux_concepts(stack())(picture()[0], ["hair", "skin"])
    assert seen.shape == (2, 64, 64) and seen.device == CARD


def test_face_parsers_find_their_device(card: Card, tmp_path: Path) -> None:
    """Their networks may lie on the card, and the picture there or here."""
    torch.save(bisenet_state(), tmp_path / "b.pth")
    parsers = [
        bisenet_parser(tmp_path / "b.pth", size=64),
        segformer_parser(segformer_folder(tmp_path / "s", 3, None), size=64),
    ]
    for parser in parsers:
        assert parser(picture()[0]).device == CARD
    assert clipseg(clipseg_folder(tmp_path / "c"))(picture()[0], ["hat"]).device == CARD


@pytest.mark.parametrize("name", ["ir", "irse", "facenet", "mobileface", "vit"])
def test_recognisers(card: Card, name: str) -> None:
    encoder = load_recogniser(name)
    there = replace(encoder, network=on_card(encoder.network))
    side = encoder.size
    for face in (torch.rand(2, 3, side, side), torch.rand(2, 3, side, side).to(CARD)):
        assert there(face).device == face.device
