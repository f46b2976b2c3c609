"""The whole job is known and checked before the first network runs: names, places, what is passed over."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from fluxguard_core.cli import plan as planning
from fluxguard_core.cli.main import build_parser, main
from fluxguard_core.cli.names import Targets, folder_targets, key, shown
from fluxguard_core.cli.plan import Plan, make_plan
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.pictures.files import to_pillow, write_png

WISH = ("--prompt", "a person with red lipstick")


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(seed))
    return write_png(path.with_suffix(".png"), values).replace(path)


def planned(source: Path, output: Path, *more: str) -> Plan:
    args = build_parser().parse_args(["protect", str(source), "-o", str(output), *WISH, *more])
    return make_plan(args)


def names(photos: list[str], inputs: list[str] | None = None) -> list[str]:
    root, output = Path("/in"), Path("/out")
    given = [root / name for name in photos]
    found = folder_targets(given, root, output, [Path(name) for name in inputs or []])
    every = [key(path) for targets in found for path in targets.every]
    assert len(set(every)) == len(every)
    return [str(targets.protected.relative_to(output)) for targets in found]


def test_every_photo_has_names_of_its_own() -> None:
    assert names(["anna.jpg", "ben.png"]) == ["anna.png", "ben.png"]
    assert names(["anna.jpg", "anna.png", "ben.png"]) == ["anna-jpg.png", "anna-png.png", "ben.png"]
    assert names(["a.JPG", "A.jpg"]) == ["a-jpg.png", "A-jpg-2.png"]
    assert names(["stra\u00dfe.png", "STRASSE.png"]) == ["stra\u00dfe-png.png", "STRASSE-png-2.png"]
    assert names(["e\u0301.png", "\u00e9.png"]) == ["e\u0301-png.png", "\u00e9-png-2.png"]
    # never another one's companion, in whatever order they come
    assert names(["a.png", "a-unprotected.png"]) == ["a.png", "a-unprotected-png.png"]
    assert names(["a-unprotected.png", "a.png"]) == ["a-unprotected-png.png", "a.png"]
    # what is protected never bears the mark of what is not
    assert names(["b-Unprotected.jpg", "c-where.png"]) == [
        "b-Unprotected-jpg.png",
        "c-where-png.png",
    ]
    # a sub-folder may have a picture's name
    assert names(["x.jpg", "x.png/in.png"]) == ["x-jpg.png", "x.png/in.png"]
    assert names(["x.jpg", "X.JSON/in/a.png"]) == ["x-jpg.png", "X.JSON/in/a.png"]
    assert names(["x/a.png", "y/a.png"]) == ["x/a.png", "y/a.png"]
    # never an input
    assert names(["a.jpg"], ["/out/a.png"]) == ["a-jpg.png"]
    assert names(["a.jpg"], ["/out/A-UNPROTECTED.PNG"]) == ["a-jpg.png"]


def test_names_fit_the_file_system_and_stay_distinct() -> None:
    long = "\u00e4" * 125
    found = names([f"{long}.png", f"{long}b.png", f"{long}.jpg"])
    assert len(set(found)) == 3
    for name in found:
        assert all(len(os.fsencode(path.name)) + 14 <= 255 for path in Targets(Path(name)).every)


def test_a_name_that_is_no_text_can_be_shown() -> None:
    assert shown(os.fsdecode(b"a\xff.png")) == "a\ufffd.png"
    assert shown("a\x1b[31mb\n.png") == "a\ufffd[31mb\ufffd.png"


def test_inputs_are_told_one_by_one_and_nothing_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    picture(folder / "a.png")
    picture(folder / "b.jpg", 1)
    picture(folder / "sub" / "c.png", 2)
    (folder / "d.heic.txt").write_text("x")
    (folder / "film.mp4").write_bytes(b"x")
    before = sorted(tmp_path.rglob("*"))
    assert main(["protect", str(folder), "-o", str(tmp_path / "out"), *WISH, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert f"a.png  -> {tmp_path / 'out' / 'a.png'}" in told and "b.jpg  -> " in told
    assert "passed over: film.mp4: A video" in told and "--recursive" in told
    assert "c.png" not in told and "pictures           2" in told
    assert sorted(tmp_path.rglob("*")) == before
    assert len(planned(folder, tmp_path / "out", "--recursive").items) == 3


@pytest.mark.parametrize(
    "output", ["/proc/out.png", "file/out.png", "dir.png", "\u00e4" * 122 + ".png"]
)
def test_a_place_that_will_not_do_is_told_first(
    tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "dir.png").mkdir()
    with pytest.raises(FluxGuardError, match="'output'"):
        planned(picture(tmp_path / "a.png"), Path(output))


def test_an_original_is_never_replaced(tmp_path: Path) -> None:
    photo = picture(tmp_path / "in" / "a.png")
    with pytest.raises(FluxGuardError, match=r"take the place of a\.png"):
        planned(photo, photo)
    for given in ("--second", "--mask"):
        other = picture(tmp_path / "b-unprotected.png")
        with pytest.raises(FluxGuardError, match=r"take the place of b-unprotected\.png"):
            planned(photo, tmp_path / "b.png", given, str(other))
    with pytest.raises(FluxGuardError, match="lie among the photos"):
        planned(photo.parent, photo.parent)
    with pytest.raises(FluxGuardError, match="lie among the photos"):
        planned(photo.parent, photo.parent / "out", "--recursive")
    assert planned(photo.parent, photo.parent / "out").items
    if hasattr(os, "link"):
        os.link(photo, tmp_path / "same.png")
        with pytest.raises(FluxGuardError, match="take the place of"):
            planned(photo, tmp_path / "same.png")


def test_what_fluxguard_has_not_written_is_not_replaced(tmp_path: Path) -> None:
    photo, other = picture(tmp_path / "a.png"), picture(tmp_path / "out.png", 1)
    with pytest.raises(FluxGuardError, match=r"out\.png is there already"):
        planned(photo, other)
    other.unlink()
    (tmp_path / "out.json").write_text(json.dumps({"mine": 1}))
    with pytest.raises(FluxGuardError, match=r"out\.json is there already"):
        planned(photo, other)


def test_files_that_are_missing_are_told_first(tmp_path: Path) -> None:
    photo = picture(tmp_path / "a.png")
    for option in ("--second", "--mask", "--recogniser", "--lora", "--vgg"):
        with pytest.raises(FluxGuardError, match=r"no file typo\.png"):
            planned(photo, tmp_path / "out.png", option, "typo.png")
    with pytest.raises(FluxGuardError, match=r"no file typo\.png"):
        planned(photo, tmp_path / "out.png", "--identity", "photo:typo.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for option in ("--second", "--mask"):
        with pytest.raises(FluxGuardError, match=r"broken\.png"):
            planned(photo, tmp_path / "out.png", option, str(tmp_path / "broken.png"))


@pytest.mark.parametrize("option", ["--lora", "--recogniser", "--vgg", "--hold-out"])
def test_what_is_no_model_is_told_before_anything_is_loaded(tmp_path: Path, option: str) -> None:
    photo, file = picture(tmp_path / "a.png"), tmp_path / "m.safetensors"
    contents = {
        "a web page": b"<!doctype html><html>",
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "is empty": b"",
    }
    for words, content in contents.items():
        file.write_bytes(content)
        with pytest.raises(
            FluxGuardError, match=rf"m\.safetensors .*{words}|m\.safetensors {words}"
        ):
            planned(photo, tmp_path / "out.png", option, str(file))
    if option in ("--lora", "--recogniser"):
        with pytest.raises(FluxGuardError, match="is a folder"):
            planned(photo, tmp_path / "out.png", option, str(tmp_path))


def test_a_protected_picture_is_never_called_unprotected(tmp_path: Path) -> None:
    with pytest.raises(FluxGuardError, match="name for what is not protected"):
        planned(picture(tmp_path / "a.png"), tmp_path / "b-unprotected.png")


def test_a_mask_is_held_against_every_photo_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, mask = tmp_path / "in", tmp_path / "m.png"
    picture(folder / "a.png")
    write_png(folder / "b.png", torch.rand(1, 3, 30, 24))
    turned = to_pillow(torch.rand(1, 3, 24, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "c.jpg", exif=exif)
    write_png(mask, torch.ones(1, 1, 20, 24))
    plan = planned(folder, tmp_path / "out", "--mask", str(mask))
    assert [item.photo.name for item in plan.to_do] == ["a.png", "c.jpg"]
    given = ["protect", str(folder), "-o", str(tmp_path / "out"), *WISH, "--mask", str(mask)]
    assert main([*given, "--dry-run"]) == 0
    assert "24x20 pixels, the picture 24x30" in capsys.readouterr().out
    write_png(mask, torch.ones(1, 1, 9, 9))
    with pytest.raises(FluxGuardError, match="9x9 pixels"):
        planned(folder, tmp_path / "out", "--mask", str(mask))
    write_png(mask, torch.zeros(1, 1, 20, 24))
    with pytest.raises(FluxGuardError, match="empty"):
        planned(folder, tmp_path / "out", "--mask", str(mask))


def test_what_a_header_shows_is_told_in_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    picture(folder / "a.png")
    (folder / "page.jpg").write_text("<!doctype html>")
    (folder / "empty.png").touch()
    (folder / "heic.jpg").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 500)
    assert main(["protect", str(folder), "-o", str(tmp_path / "out"), *WISH, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "page.jpg is not a picture" in told and "empty (0 bytes)" in told and "HEIC" in told
    assert "pictures           1" in told and told.count("-> ") == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--detector", "yunett"), "got 'yunett'"),
        (("--detector", "box:1,2,3"), "box:1,2,3|LEFT,TOP,RIGHT,BOTTOM"),
        (("--hold-out", "mobilface"), "mobilface"),
        (("--points", "POINTS"), "no readable JSON"),
    ],
)
def test_a_dry_run_knows_every_name(
    tmp_path: Path, given: tuple[str, str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a run would refuse while it loads is refused by its plan."""
    photo, points = picture(tmp_path / "a.png"), tmp_path / "points.json"
    points.write_text("[[1, 2], ")
    option, value = given
    value = str(points) if value == "POINTS" else value
    job = ["protect", str(photo), "-o", str(tmp_path / "o.png"), *WISH, "--dry-run"]
    assert main([*job, option, value]) == 2
    assert re.search(told, capsys.readouterr().err)
    assert main(job) == 0


def test_photos_that_cannot_be_reached_count_as_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    picture(folder / "a.png")
    picture(folder / "sub" / "b.png")
    plan = planned(folder, tmp_path / "out")
    assert plan.left_alone == 0  # a sub-folder that nobody asked for
    os.symlink(tmp_path / "unplugged" / "c.jpg", folder / "c.jpg")
    os.symlink(tmp_path / "unplugged" / "notes", folder / "notes")
    plan = planned(folder, tmp_path / "out")
    assert plan.left_alone == 1 and "c.jpg: A link to nothing." in plan.passed_over
    assert not any("notes" in line for line in plan.passed_over)
    (folder / "c.jpg").unlink()
    real = os.listdir

    def closed(place: Path) -> list[str]:
        if Path(place).name == "sub":
            raise PermissionError(13, "Permission denied")
        return real(place)

    monkeypatch.setattr(os, "listdir", closed)
    plan = planned(folder, tmp_path / "out", "--recursive")
    assert plan.left_alone == 1
    assert "sub: It may not be read (Permission denied)." in plan.passed_over


def test_a_full_disk_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda place: usage._replace(free=1000))
    with pytest.raises(FluxGuardError, match="0 MiB are free"):
        planned(picture(tmp_path / "a.png"), tmp_path / "out.png")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_names_that_are_no_text_are_worked_on(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    photo = picture(folder / "a.png")
    os.rename(os.fsencode(photo), os.fsencode(folder) + b"/\xff\n.png")
    plan = planned(folder, tmp_path / "out")
    assert (
        len(plan.items) == 1 and os.fsencode(plan.items[0].targets.protected.name) == b"\xff\n.png"
    )


def test_one_word_for_one_thing_and_the_earlier_ones_still_work() -> None:
    parse = build_parser().parse_args
    old = parse(["protect", "a", "-o", "b", "--steps", "4", "--attacked", "1", "--iterates", "2"])
    new = parse(
        [
            "protect",
            "a",
            "-o",
            "b",
            "--intervals",
            "4",
            "--attack-last",
            "1",
            "--optimiser-steps",
            "2",
        ]
    )
    assert vars(old) == vars(new) and new.intervals == 4
    preset = planning.chosen_preset(new)
    assert (preset.intervals, preset.attacked, preset.refiner.steps) == (4, 1, 2)
