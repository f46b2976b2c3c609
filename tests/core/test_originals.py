"""No command takes the place of a picture that it has not made, and each says so before it works."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from fluxguard_core.cli import attributes
from fluxguard_core.cli.main import main
from fluxguard_core.mini.portrait_spec import identity, random_spec
from fluxguard_core.mini.renderer import render
from fluxguard_core.pictures.files import write_png


def portrait(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = render(random_spec(7_100_000 + seed, identity(7_100_000 + seed)))
    return write_png(path, drawn.image[None])


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "output", ["photo.png", "other.png", "other-overlay.png", "MASK.png", "grey.png"]
)
def test_a_mask_replaces_masks_only(
    tmp_path: Path, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = portrait(tmp_path / "photo.png")
    taken = tmp_path / ("MASK-overlay.png" if output == "MASK.png" else output)
    if taken != photo:
        portrait(taken, 1)
    if output == "grey.png":  # a black and white photo looks like a mask
        Image.open(taken).convert("L").save(taken)
    before = digest(taken)
    given = ["mask", str(photo), "--prompt", "red lipstick", "--overlay"]
    assert main([*given, "-o", str(tmp_path / output)]) == 2
    told = capsys.readouterr().err
    assert "take the place of" in told or "is no mask" in told
    assert digest(taken) == before
    mask = tmp_path / "mine.png"
    assert main([*given[:-1], "-o", str(mask)]) == 0
    assert main([*given, "-o", str(mask)]) == 0  # an earlier mask may go
    assert main([*given, "-o", str(mask)]) == 0  # and an overlay beside its mask


def test_a_report_has_a_pages_name_and_a_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = portrait(tmp_path / "a.png")
    before = digest(photo)
    assert main(["report", str(photo), str(photo), "-o", str(photo)]) == 2
    assert main(["report", str(photo), str(photo), "--json", str(photo)]) == 2
    assert digest(photo) == before
    (tmp_path / "file").write_text("x")
    page = str(tmp_path / "file" / "r.html")
    capsys.readouterr()
    assert main(["report", "nobody.png", "nobody.png", "-o", page]) == 2
    assert "a file in its place" in capsys.readouterr().err  # before anything is read


def test_the_demo_says_first_where_it_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    assert main(["demo", "--quiet", "-o", str(tmp_path / "file")]) == 2
    assert "Results cannot be written" in capsys.readouterr().err
    photo = portrait(tmp_path / "source.png")
    before = digest(photo)
    assert main(["demo", "--quiet", "--photo", str(photo), "-o", str(tmp_path)]) == 2
    assert digest(photo) == before


def test_attributes_go_on_after_any_trouble_and_keep_what_is_not_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = tmp_path / "in", tmp_path / "out"
    for seed, name in enumerate(("a", "b", "sub/c")):
        portrait(photos / f"{name}.png", seed)
    (photos / "broken.png").write_bytes(b"no picture")
    real = attributes.change_attributes
    tries: list[int] = []

    def strange_once(*given: object, **more: object) -> object:
        tries.append(1)
        if len(tries) == 1:
            raise ZeroDivisionError("nobody thought of it")
        return real(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(attributes, "change_attributes", strange_once)
    given = ["attributes", str(photos), "-o", str(out), "--set", "Black_Hair=yes", "--recursive"]
    assert main(given) == 1
    told = capsys.readouterr().err
    assert "ZeroDivisionError" in told and "broken.png" in told
    assert "2 changed, 2 of 4 could not be changed." in told
    assert {p.name for p in out.rglob("*") if p.is_file()} == {"b.png", "b.json", "c.png", "c.json"}
    (out / "b.json").unlink()
    (out / "b.json").write_text(json.dumps({"mine": 1}))
    assert main(given) == 2
    assert "no result of FluxGuard" in capsys.readouterr().err
    assert json.loads((out / "b.json").read_text()) == {"mine": 1}


@pytest.mark.parametrize("kind", ["loop", "nothing"])
@pytest.mark.parametrize("command", ["protect", "shield", "attributes"])
def test_a_link_to_nothing_is_no_place(
    tmp_path: Path, kind: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    write_png(tmp_path / "in" / "a.png", torch.rand(1, 3, 20, 24))
    link = tmp_path / "link"
    os.symlink(link if kind == "loop" else tmp_path / "nowhere", link)
    words = {
        "protect": ["protect", "in", "--prompt", "a person with red lipstick"],
        "shield": ["shield", "cloning", "in"],
        "attributes": ["attributes", "in", "--set", "Black_Hair=yes"],
    }[command]
    words[words.index("in")] = str(tmp_path / "in")
    assert main([*words, "-o", str(link)]) == 2
    assert "a link to nothing in its place" in capsys.readouterr().err
