"""Concept attention: a pass that leaves the velocity alone, its masks on drawn people, and who asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")

from fluxguard_core.backends.flux import FluxStack, cast, unpack
from fluxguard_core.backends.flux_concepts import concept_pass, flux_concepts
from fluxguard_core.backends.flux_lora import add_lora
from fluxguard_core.backends.similarity import concept_blocks, concept_mask, token_scores
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.flow import Block, Layout, flux_schedule, invert
from fluxguard_core.mini.captions import caption
from fluxguard_core.mini.faces import find_faces, parse_face
from fluxguard_core.mini.models import miniature
from fluxguard_core.mini.portrait_spec import random_spec, with_attributes
from fluxguard_core.mini.renderer import render
from fluxguard_core.mini.text import CONCEPTS
from fluxguard_core.mini.world import load_stack, lora_path
from fluxguard_core.pipelines.masks import found_from_words
from fluxguard_core.regions import (
    ConceptParser,
    EmptyMask,
    auto_source,
    concept_source,
    parser_source,
)
from fluxguard_core.regions.refine import colour_posterior, guided
from training.mini.regions_quality import AIMS, overlaps, points_of, sources, summary


@pytest.fixture(scope="module")
def stack() -> FluxStack:
    return load_stack()


def portrait(seed: int = 3, **attributes: str) -> Tensor:
    return render(with_attributes(random_spec(seed), **attributes)).image


def concepts_of(stack: FluxStack) -> Tensor:
    return torch.stack([stack.encode_prompt(word).context[0, 0] for word in ("hair", "lipstick")])


def test_concepts_leave_the_velocity_as_it_is(stack: FluxStack) -> None:
    latent = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    blocks = concept_blocks(stack.layout)
    gathered, velocity = concept_pass(stack, latent, 0.5, concepts_of(stack), blocks)
    plain = stack.field("", 1.0)(latent, 0.5)
    assert torch.allclose(unpack(velocity, 16, 16), plain, atol=1e-4 * float(plain.abs().max()))
    assert set(gathered) == {Block("double", 0), Block("double", 1), Block("single", 5)}
    for image, words in gathered.values():
        assert image.shape == (64, 256) and words.shape == (2, 256)
    hooked = [m for m in stack.transformer.modules() if m._forward_pre_hooks]
    assert not hooked


def test_nothing_looks_at_the_concepts_but_they_themselves() -> None:
    seen = concept_mask(3, 2, 4, torch.device("cpu"))
    others = [0, 1, 2, 5, 6, 7, 8]
    assert not seen[others][:, 3:5].any() and seen[others][:, others].all()
    assert seen[3:5, 3:].all() and not seen[3:5, :3].any()


def test_the_blocks_are_the_published_ones_or_all_of_a_shallow_network() -> None:
    deep = concept_blocks(Layout("flux", 19, 38, 3072))
    assert deep == tuple(Block("double", i) for i in (15, 16, 17, 18))
    assert concept_blocks(Layout("flux", 1, 2, 128)) == (Block("double", 0), Block("single", 1))


def test_scores_are_free_of_what_all_places_or_all_concepts_share() -> None:
    image, words = torch.randn(12, 8), torch.randn(3, 8)
    scores = token_scores([(image, words)])
    assert scores.shape == (3, 12)
    assert float(scores.mean(0).abs().max()) < 1e-5 > float(scores.mean(1).abs().max())
    shifted = token_scores([(5 * image + 3, words)])
    assert torch.allclose(scores, shifted, atol=1e-4)
    with pytest.raises(FluxGuardError, match="none of the blocks"):
        token_scores([])


def test_regions_of_drawn_people_reach_their_aims() -> None:
    """Twelve held-out people here; `python -m training.mini regions` measures 200."""
    seen = sources()
    found = summary(overlaps({name: seen[name] for name in ("parser", "concepts")}, 12))
    rows = found["sources"]
    for region, aim in AIMS["concepts"].items():
        assert rows["concepts"][region]["iou"] >= aim, region
    for region, row in rows["union"].items():
        best = max(rows["parser"][region]["iou"], rows["concepts"][region]["iou"])
        assert row["iou"] >= best - 1e-9, region


def test_a_state_of_the_inversion_serves_as_well_as_fresh_noise(stack: FluxStack) -> None:
    picture = portrait(hair_style="long", hat="none")
    latent = stack.encode(picture[None])
    sigmas = flux_schedule(6, 64)
    passed: list[Tensor] = []
    trajectory = invert(
        stack.field("", 1.0),
        latent,
        sigmas,
        value_intervals=0,
        progress=lambda done, total, z: passed.append(z.clone()),
    )
    for step in (0, 3, 5):
        assert torch.allclose(trajectory.state(step, latent.device), passed[5 - step], atol=1e-4)
    assert torch.equal(trajectory.state(6, latent.device), trajectory.source)
    told = "a person with long brown hair, white background"
    masks = []
    for attend in (flux_concepts(stack), flux_concepts(stack, trajectory=trajectory)):
        found = concept_source(attend, points_of, phrases=CONCEPTS)(picture, "red hair", told)
        masks.append(found.mask > 0)
    assert float((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()) > 0.7


def test_it_works_with_a_lora_and_in_half_precision() -> None:
    picture, masks = portrait(hair_style="long", hat="none"), []
    for dtype, lora in ((torch.float32, None), (torch.float32, "sepia"), (torch.bfloat16, None)):
        own = load_stack()
        if lora is not None:
            add_lora(own, lora_path(lora), 1.0)
        cast(own.transformer, dtype)
        found = concept_source(flux_concepts(own), points_of, phrases=CONCEPTS)(
            picture, "a new background", None
        )
        masks.append(found.mask > 0)
    for other in masks[1:]:
        assert float((masks[0] & other).sum() / (masks[0] | other).sum()) > 0.8


def test_a_hat_is_looked_for_only_where_words_speak_of_one(stack: FluxStack) -> None:
    asked: list[Sequence[str]] = []

    def attend(picture: Tensor, phrases: Sequence[str]) -> Tensor:
        asked.append(tuple(phrases))
        return torch.zeros(len(phrases), *picture.shape[-2:])

    source = concept_source(attend, points_of)
    source(portrait(), "red hair", "a woman")
    source(portrait(), "red hair", "a woman with a hat and glasses")
    assert "hat" not in asked[0] and "glasses" not in asked[0]
    assert {"hat", "glasses"} <= set(asked[1]) and "eyes" not in asked[1]


def test_a_larger_picture_gets_the_same_labels(stack: FluxStack) -> None:
    picture = portrait(hair_style="bob", hat="none")
    large = torch.nn.functional.interpolate(picture[None], (512, 512), mode="bicubic")[0].clamp(
        0, 1
    )

    def attend(given: Tensor, phrases: Sequence[str]) -> Tensor:
        scores = flux_concepts(stack)(picture, phrases)
        return torch.nn.functional.interpolate(scores[None], given.shape[-2:], mode="bilinear")[0]

    small = ConceptParser(attend, CONCEPTS, points_of)(picture)
    seen = ConceptParser(attend, CONCEPTS, points_of)(large)[::4, ::4]
    assert seen.shape == small.shape
    assert float((seen == small).float().mean()) > 0.85


def test_without_a_face_it_goes_by_words_and_colours_alone(stack: FluxStack) -> None:
    parser = ConceptParser(flux_concepts(stack), CONCEPTS, lambda _: None)
    picture = render(with_attributes(random_spec(5), background="green", clothes="red"))
    labels = parser(picture.image)
    true = picture.labels == 0
    assert float(((labels == 0) & true).sum() / ((labels == 0) | true).sum()) > 0.5


def test_colours_decide_where_places_do_not() -> None:
    picture = torch.zeros(3, 20, 20)
    picture[0, :, 10:] = 1
    evidence = torch.zeros(2, 20, 20)
    evidence[0, :, :4], evidence[1, :, 16:] = 2.0, 2.0
    chance = colour_posterior(picture, evidence)
    assert (chance[0, :, :9] > 0.9).all() and (chance[1, :, 11:] > 0.9).all()


def test_the_guided_filter_follows_an_edge() -> None:
    picture = torch.zeros(3, 16, 16)
    picture[:, :, 8:] = 1
    coarse = torch.sigmoid((torch.arange(16.0) - 7.5) / 2).expand(1, 16, 16)
    fine = guided(coarse, picture, 4)
    assert float(fine[0, 8, 8] - fine[0, 8, 7]) > 2 * float(coarse[0, 8, 8] - coarse[0, 8, 7])
    flat = guided(coarse, torch.full((3, 16, 16), 0.5), 2)
    assert float((flat - coarse).abs().max()) < 0.3


def test_auto_asks_concept_attention_for_what_the_parser_has_not(stack: FluxStack) -> None:
    picture = portrait(hair_style="long", hat="none")
    attention = concept_source(flux_concepts(stack), points_of, phrases=CONCEPTS)

    def bald(given: Tensor) -> Tensor:
        labels = parse_face(given)
        return torch.where(labels == 17, torch.zeros_like(labels), labels)

    found = auto_source(parser=parser_source(bald, "miniature"), concepts=attention)(
        picture, "red lips and red hair", "a person with long brown hair"
    )
    assert found.names == ("lips", "hair") and not found.missing
    assert found.source == "miniature, and hair by concept attention"
    alone = parser_source(bald, "miniature")(picture, "red lips", None)
    assert torch.equal(found.mask * alone.mask, alone.mask)


def test_the_pipeline_takes_the_model_itself_where_there_is_no_parser() -> None:
    spec = with_attributes(random_spec(3), hair_style="long", hair_colour="brown", hat="none")
    drawn = render(spec)
    models, face = miniature(), find_faces(drawn.image)[0]
    before = caption(spec.attributes)
    after = before.replace("brown hair", "red hair")
    by_parser = found_from_words(models, drawn.image[None], before, after, face)
    assert by_parser.source == "face parser"
    blind = replace(models, parse_face=None)
    found = found_from_words(blind, drawn.image[None], before, after, face)
    assert found.source == "concept attention" and found.names == by_parser.names == ("hair",)
    assert found.sure is not None and 0.3 < found.sure <= 1
    both = (found.mask > 0) & (by_parser.mask > 0)
    assert float(both.sum() / ((found.mask > 0) | (by_parser.mask > 0)).sum()) > 0.5
    with pytest.raises(EmptyMask, match=r"Looked for neck"):
        found_from_words(blind, drawn.image[None], before, "a longer neck", face)
