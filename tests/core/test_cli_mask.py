"""`fluxguard mask`: what it draws, what it says, and that it never writes a mask that would change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fluxguard_core.cli.main import main
from fluxguard_core.mini.portrait_spec import random_spec, with_attributes
from fluxguard_core.mini.renderer import render
from fluxguard_core.pictures.files import read_mask, read_picture, write_png


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    spec = with_attributes(random_spec(3), hair_style="long", hat="none", beard="no")
    write_png(tmp_path / "drawn.png", render(spec).image[None])
    return tmp_path / "drawn.png"


def drawn(photo: Path, *given: str) -> tuple[int, Path]:
    out = photo.with_name("mask.png")
    return main(["mask", str(photo), "-o", str(out), *given]), out


def seen(out: Path) -> Tensor:
    return read_mask(out, (128, 128))


def test_a_drawn_portrait_is_known_and_the_parser_is_named(
    photo: Path, capsys: pytest.CaptureFixture
) -> None:
    code, out = drawn(photo, "--prompt", "red hair", "--overlay", "--feather", "4")
    told = capsys.readouterr().out
    assert code == 0 and "hair " in told and "(by miniature)" in told
    assert 0.02 < float(seen(out).mean()) < 0.6
    assert read_picture(photo.with_name("mask-overlay.png")).rgb.shape == (1, 3, 128, 128)


def test_concept_attention_of_the_miniature(photo: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("diffusers")
    _, out = drawn(photo, "--prompt", "red hair")
    by_parser = seen(out) > 0.5
    code, out = drawn(photo, "--prompt", "red hair", "--parser", "concepts")
    assert code == 0 and "by concept attention, sure 0." in capsys.readouterr().out
    own = seen(out) > 0.5
    assert float((own & by_parser).sum() / (own | by_parser).sum()) > 0.5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--prompt", "a fast car"), "No face region is named"),
        (("--prompt", "a red hat", "--grow", "-90"), "vanishes when it is shrunk"),
        (("--prompt", "red hair", "--grow", "500"), "next to nothing would be kept"),
        (("--prompt", "same hair"), "only says what stays as it is"),
        (("--prompt", "red hair", "--combine", "subtract"), "leave nothing over"),
        (("--prompt", "red hair", "--parser", "nothing"), "Unknown --parser"),
    ],
)
def test_a_mask_that_would_change_nothing_or_keep_nothing_is_told(
    photo: Path, given: tuple[str, ...], words: str, capsys: pytest.CaptureFixture
) -> None:
    if "--combine" in given:
        white = photo.with_name("white.png")
        write_png(white, torch.ones(1, 1, 128, 128))
        given = (*given, "--mask", str(white))
    code, out = drawn(photo, *given)
    assert code == 2 and words in capsys.readouterr().err
    assert not out.exists()


def test_what_is_not_there_is_told_with_what_is(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    spec = with_attributes(random_spec(3), hair_style="bald", hat="none", beard="no")
    write_png(tmp_path / "bald.png", render(spec).image[None])
    code, _ = drawn(tmp_path / "bald.png", "--prompt", "red hair")
    told = capsys.readouterr().err
    assert code == 2 and "Looked for hair" in told and "It found:" in told and "skin" in told


def test_the_parts_a_face_is_known_by_may_stay_out(photo: Path) -> None:
    _, out = drawn(photo, "--prompt", "smooth skin")
    plain = seen(out)
    _, out = drawn(photo, "--prompt", "smooth skin", "--keep-identity")
    kept = seen(out)
    assert bool((kept <= plain).all()) and float(kept.sum()) < 0.95 * float(plain.sum())


@pytest.mark.parametrize("thing", ["hat", "eyeglasses", "earrings"])
def test_a_larger_thing_gets_more_room(photo: Path, thing: str) -> None:
    _, out = drawn(photo, "--prompt", thing)
    ordinary = seen(out)
    _, out = drawn(photo, "--prompt", f"oversized {thing}")
    large = seen(out)
    assert bool((large >= ordinary).all()) and float(large.sum()) > 1.1 * float(ordinary.sum())
