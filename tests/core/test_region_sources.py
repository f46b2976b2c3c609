"""Where regions are: every source behind one signature, the public layouts, and masks that would edit nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.faces import find_faces, parse_face
from fluxguard_core.mini.portrait_spec import random_spec, with_attributes
from fluxguard_core.mini.renderer import render
from fluxguard_core.regions import (
    EmptyMask,
    Found,
    FullMask,
    NoFace,
    UnknownWords,
    auto_source,
    bisenet_parser,
    clipseg,
    combined,
    grow,
    landmark_source,
    latent_mask,
    outlines_first,
    parser_source,
    region_mask,
    segformer_parser,
    shaped,
    words_source,
)
from fluxguard_core.regions.bisenet import BiSeNet
from fluxguard_core.regions.overlay import overlay
from fluxguard_core.regions.parsers import LABELS, SEGFORMER_ORDER, segformer_order
from tests.core.test_region_shapes import sixty_eight

# The order of jonathandinu/face-parsing, as its config has it.
SEGFORMER_NAMES = [
    "background",
    "skin",
    "nose",
    "eye_g",
    "l_eye",
    "r_eye",
    "l_brow",
    "r_brow",
    "l_ear",
    "r_ear",
    "mouth",
    "u_lip",
    "l_lip",
    "hair",
    "hat",
    "ear_r",
    "neck_l",
    "neck",
    "cloth",
]


def bisenet_state(favourite: int | None = None) -> dict[str, Tensor]:
    """The public layout with random weights; with a favourite, one whose every pixel is that class."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = BiSeNet()
    if favourite is not None:
        head = network.conv_out
        torch.nn.init.zeros_(head.conv.conv.weight)
        torch.nn.init.ones_(head.conv.bn.bias)
        torch.nn.init.zeros_(head.conv_out.weight)
        head.conv_out.weight.data[favourite] = 1
    return dict(network.state_dict())


def test_bisenet_has_the_public_files_keys_and_runs(tmp_path: Path) -> None:
    state = bisenet_state()
    assert len(state) == 191
    for name, shape in (
        ("cp.resnet.conv1.weight", (64, 3, 7, 7)),
        ("cp.resnet.layer2.0.downsample.1.running_var", (128,)),
        ("cp.arm16.conv_atten.weight", (128, 128, 1, 1)),
        ("cp.arm32.bn_atten.num_batches_tracked", ()),
        ("cp.conv_avg.conv.weight", (128, 512, 1, 1)),
        ("ffm.conv1.weight", (64, 256, 1, 1)),
        ("conv_out.conv_out.weight", (19, 256, 1, 1)),
        ("conv_out16.conv.conv.weight", (64, 128, 3, 3)),
        ("conv_out32.conv_out.weight", (19, 64, 1, 1)),
    ):
        assert tuple(state[name].shape) == shape
    torch.save(state, tmp_path / "any.pth")
    labels, sure = bisenet_parser(tmp_path / "any.pth").read(torch.rand(3, 90, 60))
    assert labels.shape == sure.shape == (90, 60) and labels.dtype == torch.uint8
    assert int(labels.max()) < 19 and 1 / 19 <= float(sure.min()) <= float(sure.max()) <= 1
    del state["ffm.conv1.weight"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(FluxGuardError, match=r"191 tensors.*got 190.*ffm\.conv1\.weight"):
        bisenet_parser(tmp_path / "less.pth")


@pytest.mark.parametrize("label", [0, 6, 9, 16, 17, 18])
def test_bisenets_classes_are_the_labels(tmp_path: Path, label: int) -> None:
    torch.save(bisenet_state(label), tmp_path / "one.pth")
    parser = bisenet_parser(tmp_path / "one.pth", size=64)
    assert parser(torch.rand(3, 64, 64)).unique().tolist() == [label]


def segformer_folder(folder: Path, favourite: int, names: list[str] | None) -> Path:
    from safetensors.torch import save_file
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(names)) if names else {i: f"LABEL_{i}" for i in range(19)},
    )
    network = SegformerForSemanticSegmentation(config)
    torch.nn.init.zeros_(network.decode_head.classifier.weight)
    bias = torch.zeros(19)
    bias[favourite] = 9
    network.decode_head.classifier.bias.data = bias
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json_string())
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("named", [True, False])
def test_segformers_classes_become_the_labels(tmp_path: Path, named: bool) -> None:
    meant = {"eye_g": "glasses", "hair": "hair", "ear_r": "earring"}
    for name, label in meant.items():
        own = SEGFORMER_NAMES.index(name)
        folder = segformer_folder(tmp_path / name, own, SEGFORMER_NAMES if named else None)
        found = segformer_parser(folder, size=64)(torch.rand(3, 64, 48)).unique().tolist()
        assert [LABELS[i] for i in found] == [label]


def test_segformers_published_order_is_that_of_its_names() -> None:
    named = segformer_order({str(i): name for i, name in enumerate(SEGFORMER_NAMES)})
    assert named == SEGFORMER_ORDER and sorted(named) == list(range(19))


def test_a_foreign_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(FluxGuardError, match=r"no config\.json"):
        segformer_parser(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(FluxGuardError, match="'vit', expected 'segformer'"):
        segformer_parser(tmp_path)


def clipseg_folder(folder: Path) -> Path:
    """CLIPSeg in its public layout, small, with random weights and a tokenizer of letters."""
    from safetensors.torch import save_file
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    text = {
        "vocab_size": len(tokens),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "eos_token_id": len(tokens) - 1,
        "bos_token_id": len(tokens) - 2,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
    }
    config = CLIPSegConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=16,
        reduce_dim=8,
        extract_layers=[0, 1, 2],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    save_file(CLIPSegForImageSegmentation(config).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(config.to_json_string())
    values = {
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "size": {"height": 64, "width": 64},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return folder


def test_clipseg_runs_from_its_files(tmp_path: Path) -> None:
    segment = clipseg(clipseg_folder(tmp_path / "clipseg"))
    maps = segment(torch.rand(3, 50, 70), ["hat", "glasses"])
    assert maps.shape == (2, 50, 70) and 0 <= float(maps.min()) <= float(maps.max()) <= 1
    (tmp_path / "clipseg" / "merges.txt").unlink()
    with pytest.raises(FluxGuardError, match=r"merges\.txt"):
        clipseg(tmp_path / "clipseg")


def portrait(seed: int = 3, **attributes: str) -> Tensor:
    return render(with_attributes(random_spec(seed), **attributes)).image


def test_a_parser_answers_with_mask_names_shares() -> None:
    picture = portrait(hair_style="long")
    found = parser_source(parse_face, "miniature")(picture, "red lipstick, blond hair", None)
    assert found.names == ("lips", "hair") and found.missing == () and found.source == "miniature"
    labels = parse_face(picture)
    both = region_mask("lips", labels) | region_mask("hair", labels)
    assert torch.equal(found.mask[0, 0] > 0, both)
    assert found.shares["hair"] == pytest.approx(float(region_mask("hair", labels).float().mean()))
    assert found.sure is None and "hair" in found.told()


def test_what_is_missing_is_told_and_nothing_at_all_is_an_error() -> None:
    bald = portrait(hair_style="bald", hat="none", beard="no")
    source = parser_source(parse_face, "miniature")
    found = source(bald, "red lips and red hair", None)
    assert found.names == ("lips",) and found.missing == ("hair",)
    assert "not found: hair" in found.told()
    with pytest.raises(
        EmptyMask, match=r"Looked for hair.*by miniature.*It found: .*skin.*another parser"
    ):
        source(bald, "red hair", None)
    with pytest.raises(UnknownWords):
        source(bald, "a fast car", None)


def test_landmarks_say_what_they_cannot_show() -> None:
    source = landmark_source(sixty_eight())
    assert source(torch.rand(3, 128, 128), "smooth skin", None).names == ("skin",)
    with pytest.raises(EmptyMask, match="Landmarks outline the face only: give a face parser"):
        source(torch.rand(3, 128, 128), "red hair", None)


def test_five_points_show_an_average_face_where_they_are() -> None:
    picture, labels = (lambda drawn: (drawn.image, drawn.labels))(render(random_spec(3)))
    points = find_faces(picture)[0].landmarks
    assert points is not None
    source = landmark_source(points)
    for wish, least in (("bigger eyes", 0.4), ("red lips", 0.4), ("a new nose", 0.5)):
        found = source(picture, wish, None).mask[0, 0] > 0
        true = region_mask(source(picture, wish, None).names[0], labels)
        assert float((found & true).sum() / (found | true).sum()) > least, wish
    with pytest.raises(EmptyMask, match="or concept attention of the model itself"):
        source(picture, "red hair", None)
    with pytest.raises(NoFace):
        landmark_source(points + 1000)(picture, "red lips", None)


def test_auto_takes_the_best_that_is_connected_and_says_which() -> None:
    picture = portrait(hair_style="long")
    landmarks = landmark_source(sixty_eight())
    parser = parser_source(parse_face, "miniature")
    assert (
        auto_source(parser=parser, landmarks=landmarks)(picture, "red lips", None).source
        == "miniature"
    )
    assert (
        auto_source(parser=None, landmarks=landmarks)(picture, "red lips", None).source
        == "landmarks"
    )
    # Landmarks come first here, but show no hair.
    assert (
        auto_source(first=landmarks, second=parser)(picture, "red hair", None).source == "miniature"
    )
    with pytest.raises(EmptyMask):
        auto_source(landmarks=landmarks)(picture, "red hair", None)
    with pytest.raises(FluxGuardError, match="nothing that shows them is connected"):
        auto_source(parser=None)


def test_a_mesh_draws_what_it_outlines_and_the_other_source_the_rest() -> None:
    picture = portrait(hair_style="long")
    asked: list[str] = []
    drawn, parser = landmark_source(sixty_eight()), parser_source(parse_face, "other")

    def other(picture: Tensor, wish: str, source: str | None = None) -> Found:
        asked.append(wish)
        return parser(picture, wish, source)

    source = outlines_first(drawn, other)
    lips = source(picture, "red lips", None)
    assert torch.equal(lips.mask, drawn(picture, "red lips", None).mask) and not asked
    hair = source(picture, "red hair", None)
    assert hair.source == "other" and asked == ["red hair"]
    both = source(picture, "red lips and red hair", None)
    assert both.source == "landmarks, and hair by other" and not both.missing
    assert torch.equal(both.mask, torch.maximum(lips.mask, hair.mask))
    # Landmarks have a place for a hat, but not its edges.
    hat = source(picture, "a red hat and red lips", None)
    assert set(hat.names) == {"hat", "lips"} and hat.source == "landmarks, and hat by other"
    bald = portrait(hair_style="bald", hat="none")
    assert source(bald, "red lips and red hair", None).missing == ("hair",)
    with pytest.raises(UnknownWords):
        source(picture, "a fast car", None)
    beside = outlines_first(landmark_source(sixty_eight() + 1000), other)
    assert beside(picture, "red lips", None).source == "other"


def test_words_source_thresholds_probabilities() -> None:
    def segment(picture: Tensor, phrases: list[str]) -> Tensor:
        maps = torch.zeros(len(phrases), *picture.shape[-2:])
        maps[phrases.index("hat"), :10] = 0.9
        return maps

    found = words_source(segment)(torch.rand(3, 40, 40), "a red hat and red lips", None)
    assert found.names == ("hat",) and found.missing == ("lips",) and found.share == 0.25
    assert found.sure == pytest.approx(0.9)


def test_identity_stays_out_unless_it_is_named() -> None:
    picture = portrait()
    plain = parser_source(parse_face)(picture, "smooth skin, an older woman", None)
    kept = parser_source(parse_face, keep_identity=True)(picture, "smooth skin, a bald man", None)
    labels = parse_face(picture)
    for part in ("eyes", "nose", "mouth"):
        inner = region_mask(part, labels)
        assert not (kept.mask[0, 0].bool() & inner).any()
    assert (plain.mask[0, 0].bool() & region_mask("nose", labels)).any()
    named = parser_source(parse_face, keep_identity=True)(picture, "red lips", None)
    assert named.shares["lips"] > 0.8 * float(region_mask("lips", labels).float().mean())


def test_a_large_thing_gets_more_room() -> None:
    picture = portrait(hat="none")
    source = parser_source(parse_face)
    small, large = source(picture, "a hat", None), source(picture, "a huge hat", None)
    assert large.share > 1.1 * small.share
    assert bool((large.mask >= small.mask).all())
    assert source(picture, "big eyes", None).share == source(picture, "blue eyes", None).share


def test_given_masks_and_masks_that_keep_nothing_or_change_nothing() -> None:
    picture = portrait(hair_style="long")
    found = parser_source(parse_face)(picture, "red hair", None)
    left = torch.zeros_like(found.mask)
    left[..., :64] = 1
    assert torch.equal(combined(found, left, "intersect").mask, found.mask * left)
    assert torch.equal(combined(found, left, "subtract").mask, found.mask * (1 - left))
    assert combined(found, left, "add").share > found.share
    with pytest.raises(EmptyMask, match="leave nothing over"):
        combined(found, torch.zeros_like(left), "intersect")
    with pytest.raises(FullMask, match="next to nothing would be kept"):
        combined(found, torch.ones_like(left), "add")
    with pytest.raises(EmptyMask, match="shrunk by 200 pixels"):
        shaped(found, pixels=-200)
    assert shaped(found, pixels=2, edge=4).share > found.share


def test_a_mask_that_the_latent_does_not_see_is_told() -> None:
    found = parser_source(parse_face)(portrait(), "red lips", None)
    tiny = torch.zeros_like(found.mask)
    tiny[..., 60, 60:64] = 1
    with pytest.raises(EmptyMask, match=r"no cell of 16 pixels.*Grow it by 8 pixels"):
        latent_mask(replace(found, mask=tiny), 16)
    assert latent_mask(found, 8).shape == (1, 1, 16, 16)


def test_the_overlay_shows_each_region_in_its_colour() -> None:
    picture = portrait(hair_style="long")
    found = parser_source(parse_face)(picture, "red lips and blond hair", None)
    shown = overlay(picture[None], found)
    assert shown.shape == (1, 3, 128, 128)
    outside = (grow(found.mask, 1) < 0.5).expand_as(shown).clone()
    outside[..., :40, :] = False
    changed = (shown - picture[None]).abs() > 0.02
    assert not (changed & outside).any()
    assert bool(changed[..., 100:, :].any())
