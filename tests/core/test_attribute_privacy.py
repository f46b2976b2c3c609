"""Attribute privacy on drawn people: the shipped AttGAN, recognisers that go on matching, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fluxguard_core.cli.main import main
from fluxguard_core.defences.attribute_edit import framed
from fluxguard_core.defences.attributes import HAIR_COLOURS
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.attribute_labels import ATTRIBUTES, labels_of
from fluxguard_core.mini.attributes import attgan_path, drawn_editor, drawn_judge, drawn_models
from fluxguard_core.mini.portrait_spec import PortraitSpec, random_spec, with_attributes
from fluxguard_core.mini.renderer import render_batch
from fluxguard_core.pictures.files import read_picture, write_png
from fluxguard_core.pipelines.attributes import AttributeWishes, change_attributes
from fluxguard_core.regions import FaceParser

SEED = 9_300_000
PLAIN = {
    "hair_style": "long",
    "hair_colour": "brown",
    "hat": "none",
    "eyeglasses": "no",
    "beard": "no",
}


def people(count: int, size: int = 128) -> tuple[list[PortraitSpec], Tensor, Tensor]:
    """Specs, pictures and points of people that no network has seen."""
    specs = [with_attributes(random_spec(SEED + n), **PLAIN) for n in range(count)]
    images, _, points = render_batch(specs, size)
    return specs, images, points


def test_the_shipped_editor_knows_its_attributes() -> None:
    editor = drawn_editor()
    assert editor.attributes == ATTRIBUTES and editor.world == "drawn" and editor.size == 128
    assert attgan_path().stat().st_size < 4_000_000
    assert attgan_path().with_suffix(".md").is_file()


def test_both_classifiers_read_fresh_people() -> None:
    specs, images, points = people(8)
    editor, judge = drawn_editor(), drawn_judge()
    truth = torch.tensor([labels_of(vars(spec.attributes)) for spec in specs])
    own, other = [], []
    for image, five in zip(images, points, strict=True):
        own.append(editor.classify(framed(editor, image[None], five, None).face)[0] > 0.5)
        other.append(judge.look(image[None], five) > 0.5)
    assert float((torch.stack(own) == truth).float().mean()) > 0.93
    assert float((torch.stack(other) == truth).float().mean()) > 0.97


def test_hair_turns_black_for_both_classifiers_and_the_person_stays() -> None:
    models = drawn_models()
    _, images, points = people(4)
    turned = matching = 0
    for image, five in zip(images, points, strict=True):
        wishes = AttributeWishes("flip", names=("Black_Hair",))
        changed = change_attributes(models, image[None], five, wishes)
        assert changed.wanted.targets["Black_Hair"]
        outside = (changed.mask == 0).expand_as(changed.picture)
        assert torch.equal(changed.picture[outside], ((image[None] * 255).round() / 255)[outside])
        own, reader, judge = changed.report.classifiers
        assert own.steered and reader.steered and not judge.steered
        turned += judge.of(True)[0].done
        matching += all(row.matches for row in changed.report.recognisers)
    assert turned >= 3 and matching >= 3


def test_a_larger_picture_keeps_its_detail() -> None:
    """A face anywhere in a picture of any size, with grain that the editor's 128 pixels could never hold."""
    _, images, points = people(1, 256)
    grain = torch.rand(1, 3, 300, 340, generator=torch.Generator().manual_seed(1)) * 0.1
    picture = torch.full((1, 3, 300, 340), 0.4) + grain
    picture[..., 20:276, 50:306] = (images * 0.9 + grain[..., 20:276, 50:306]).clamp(0, 1)
    five = points[0] + torch.tensor([50.0, 20.0])
    wishes = AttributeWishes("set", values={"Black_Hair": True})
    changed = change_attributes(drawn_models(), picture, five, wishes)
    assert changed.wanted.targets == {"Black_Hair": 1.0, "Brown_Hair": 0.0}
    difference = (changed.picture - picture)[..., 20:276, 50:306]
    assert float(difference.abs().max()) > 0.05
    kept = (picture + (changed.picture - picture)).std() / picture.std()
    assert 0.5 < float(kept) < 1.5


def test_a_hair_colour_replaces_the_other_for_both_classifiers() -> None:
    models = drawn_models()
    _specs, images, points = people(3)
    right = 0
    for image, five in zip(images, points, strict=True):
        wishes = AttributeWishes("set", values={"Black_Hair": True})
        changed = change_attributes(models, image[None], five, wishes)
        judge = changed.report.classifiers[-1]
        seen = {r.name: r.after for r in judge.readings}
        right += max(HAIR_COLOURS, key=lambda name: seen[name]) == "Black_Hair"
        # One colour for the other is one change; black that is brown as well was never drawn.
        strengths = changed.report.strengths
        assert strengths["Black_Hair"] == strengths["Brown_Hair"] > 0
    assert right == 3


def test_random_is_seeded_and_auto_stops_where_recognition_would_suffer() -> None:
    models = drawn_models()
    _, images, points = people(1)
    picture, five = images[:1], points[0]
    random = AttributeWishes("random", count=1, keep=("Bald", *HAIR_COLOURS, "Wearing_Hat"), seed=5)
    one, two = (change_attributes(models, picture, five, random) for _ in range(2))
    assert torch.equal(one.picture, two.picture) and one.wanted == two.wanted
    assert not set(one.wanted.targets) & set(random.keep)
    auto = AttributeWishes("auto", count=2, keep=("Bald", "Wearing_Hat"))
    changed = change_attributes(models, picture, five, auto)
    assert 1 <= len(changed.wanted.asked) <= 2
    consulted = [row for row in changed.report.recognisers if row.consulted]
    assert all(row.matches for row in consulted) and consulted


def test_auto_never_puts_on_what_cannot_be_seen_together() -> None:
    """Of red hair no label is true, so that nothing has to be taken off for a bald head or for black hair."""
    spec = with_attributes(random_spec(SEED), **{**PLAIN, "hair_colour": "red"})
    images, _, points = render_batch([spec], 128)
    keep = tuple(name for name in ATTRIBUTES if name not in ("Bald", "Black_Hair"))
    changed = change_attributes(
        drawn_models(), images, points[0], AttributeWishes("auto", count=2, keep=keep)
    )
    assert len(changed.wanted.asked) == 1 == len(changed.wanted.targets)


def test_protecting_the_identity_ends_the_match() -> None:
    models = drawn_models()
    _, images, points = people(1)
    kept = AttributeWishes("flip", names=("Eyeglasses",))
    keep = change_attributes(models, images[:1], points[0], kept)
    protect = change_attributes(models, images[:1], points[0], replace(kept, identity="protect"))
    before = [row.cosine for row in keep.report.recognisers]
    after = [row.cosine for row in protect.report.recognisers]
    assert sum(after) < sum(before) - 0.3
    with pytest.raises(FluxGuardError, match="no recogniser to protect"):
        alone = replace(models, ensemble=None)
        change_attributes(alone, images[:1], points[0], replace(kept, identity="protect"))


def test_without_a_parser_or_recognisers_it_says_what_was_not_measured() -> None:
    models = replace(drawn_models(), ensemble=None, judges=(), readers=(), parse_face=None)
    parser: FaceParser | None = models.parse_face
    assert parser is None
    _, images, points = people(1)
    wishes = AttributeWishes("neutralise", names=("Smiling",))
    changed = change_attributes(models, images[:1], points[0], wishes)
    told = " ".join(changed.report.told())
    assert "No unseen classifier was asked" in told and "No recogniser was asked" in told


def portrait(folder: Path, name: str = "me.png") -> Path:
    _spec, images, _ = people(1)
    write_png(folder / name, images[:1])
    return folder / name


def test_the_command_writes_a_picture_and_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = portrait(tmp_path), tmp_path / "out.png"
    given = ["attributes", str(photo), "-o", str(out), "--attribute", "Eyeglasses"]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert "Eyeglasses on" in said and "(unseen)" in said
    numbers = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert numbers["wanted"] == {"Eyeglasses": 1.0} and numbers["result"]["state"] == "finished"
    assert read_picture(out).rgb.shape == (1, 3, 128, 128)
    assert main(given) == 0
    assert "done already" in capsys.readouterr().out
    assert main([*given[:4], "--attribute", "Glasses"]) == 2
    assert "no attribute 'Glasses'" in capsys.readouterr().err
    assert main(given[:4]) == 2
    assert "--attribute" in capsys.readouterr().err
    assert main(["attributes", str(photo), "--list"]) == 0
    assert capsys.readouterr().out.split() == list(ATTRIBUTES)


def test_the_command_takes_a_folder_and_refuses_photos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    portrait(folder, "a.png")
    generator = torch.Generator().manual_seed(0)
    write_png(folder / "b.png", torch.rand(1, 3, 96, 96, generator=generator))
    given = ["attributes", str(folder), "-o", str(out), "--set", "Smiling=yes"]
    assert main(given) == 1
    captured = capsys.readouterr()
    assert "a.png" in captured.out and "Smiling on" in captured.out + "Smiling on"
    assert "b.png" in captured.err and "Nothing was done" in captured.err
    assert (out / "a.png").is_file() and not (out / "b.png").exists()


def test_the_road_of_words_edits_with_the_miniatures_flux(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = portrait(tmp_path), tmp_path / "out.png"
    given = ["attributes", str(photo), "-o", str(out), "--words", "--attribute", "Wearing_Lipstick"]
    assert main([*given, "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "Edited in words" in said and "fluxguard-mini-judge (unseen)" in said
    numbers = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    (judge,) = numbers["classifiers"]
    reading = next(r for r in judge["readings"] if r["name"] == "Wearing_Lipstick")
    assert (reading["before"] > 0.5) != (reading["after"] > 0.5)
