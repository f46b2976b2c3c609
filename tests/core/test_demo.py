"""`fluxguard demo`: the user's words on a drawn portrait or on a file, at any seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fluxguard_core.cli.demo import PROMPT, SEED, portraits_before
from fluxguard_core.cli.main import main
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.captions import caption, parse_caption
from fluxguard_core.mini.models import complete
from fluxguard_core.mini.portrait_spec import identity, random_spec, with_attributes
from fluxguard_core.mini.renderer import render
from fluxguard_core.pictures.files import read_picture, write_png

PROMPTS = (
    PROMPT,
    "a person with blond hair, wearing red lipstick",
    "a person smiling",
    "eyeglasses",
    "a blond person",
    "a beard",
    "without a beard",
    "long black hair",
    "without hair",
    "a person without eyeglasses and lipstick",
    "a red hat, pink background",
    "white clothes, earrings",
)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_seed_draws_somebody_whom_the_words_change(prompt: str) -> None:
    asked = parse_caption(prompt)
    for seed in range(400):
        spec, other = portraits_before(prompt, seed)
        assert not {n for n, value in asked.items() if getattr(spec.attributes, n) == value}
        assert spec.identity == other.identity
        before = caption(spec.attributes)
        after = complete(before, prompt)
        assert after != before
        shown = parse_caption(after)
        for name, value in asked.items():
            assert shown.get(name, "no") in (value, "no") and (name in shown) == (
                value not in ("no", "none")
            )


def test_a_seed_is_a_portrait_and_unasked_things_stay_as_they_were_drawn() -> None:
    one, two = (portraits_before("blue eyeshadow", 5)[0] for _ in range(2))
    assert one == two != portraits_before("blue eyeshadow", 6)[0]
    other = portraits_before("a beard", 5)[0]
    undone = with_attributes(one, eyeshadow="none", beard="no")
    assert undone == with_attributes(other, eyeshadow="none", beard="no")
    given = {portraits_before("without lipstick", s)[0].attributes.lipstick for s in range(30)}
    assert given == {"red", "pink", "dark"}


def test_a_colour_of_hair_undoes_a_bald_head_and_a_style_stays_asked() -> None:
    bald = "a person with a bald head, white clothes, pink background"
    assert "short blond hair" in complete(bald, "blond hair")
    assert "curly blond hair" in complete(bald, "curly blond hair")
    assert "bald" in complete(bald, "a bald head, red lipstick")


def test_words_that_ask_for_nothing_are_told(tmp_path: Path) -> None:
    with pytest.raises(FluxGuardError, match="says what to change, got 'a person'"):
        portraits_before("a person", 0)


def report_of(folder: Path, *given: str) -> dict:
    assert main(["demo", "--quiet", "-o", str(folder), *given]) == 0
    return json.loads((folder / "report.json").read_text())


def test_words_that_the_drawn_portrait_had_fulfilled(tmp_path: Path) -> None:
    wanted = "a person smiling"
    drawn = [random_spec(9_000_000 + 2 * s).attributes.smile for s in range(20)]
    seed = drawn.index("yes")
    report = report_of(tmp_path, "--seed", str(seed), "--preset", "fast", "--prompt", wanted)
    assert "smiling" in report["prompt"] and "smiling" not in report["source_prompt"]


def test_a_large_photo_is_worked_on_around_the_face(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = with_attributes(random_spec(7, identity(7)), lipstick="none")
    photo = write_png(tmp_path / "large.png", render(spec, 512).image[None])
    given = ["--photo", str(photo), "--preset", "fast", "--seed", "1"]
    report = report_of(tmp_path / "out", *given, "--prompt", "a person wearing red lipstick")
    assert report["settings"]["working_size"] == [128, 128]
    source, protected = (
        read_picture(tmp_path / "out" / f"{name}.png").rgb for name in ("source", "protected")
    )
    assert source.shape == protected.shape == (1, 3, 512, 512)
    assert (source - protected).abs().max() > 0.02

    already = "without lipstick"
    assert main(["demo", *given, "--quiet", "--prompt", already, "-o", str(tmp_path)]) == 2
    assert f"already shows '{already}'" in capsys.readouterr().err


def test_the_demo_as_anybody_starts_it(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    report = report_of(tmp_path)
    assert torch.get_num_threads() == 1  # two of them crawl beside other work
    assert report["preset"] == "default" and report["settings"]["working_size"] == [128, 128]
    assert report["settings"]["seed"] == SEED
    assert "lipstick" not in report["source_prompt"] and "red lipstick" in report["prompt"]
    judged = {found["name"]: found for found in report["recognisers"]}
    assert {name for name, found in judged.items() if not found["attacked"]} == {
        "mini-mobileface",
        "mini-vit",
    }
    # The edit leaves the person plainly the same: there is somebody to protect, for every recogniser.
    assert all(found["edited"] > found["threshold"] + 0.1 for found in judged.values())
    assert all(found["withheld"] for found in judged.values() if found["attacked"])
    assert report["verdict"]["level"] in ("all", "some")
