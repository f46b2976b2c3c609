"""`fluxguard report` end to end on rendered portraits and a recogniser file made on the spot."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fluxguard_core.cli.report import register
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.evaluate.surroundings import found_anew
from fluxguard_core.mini.portrait_spec import random_spec, with_attributes
from fluxguard_core.mini.renderer import render
from fluxguard_core.pictures.files import write_png
from fluxguard_core.recognition import Face
from fluxguard_core.recognition.backbones.mobilefacenet import MobileFaceNet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pictures")
    spec = random_spec(21)
    portrait = render(spec)
    write_png(place / "original.png", portrait.image)
    write_png(place / "edited.png", render(with_attributes(spec, lipstick="pink")).image)
    write_png(place / "protected.png", (portrait.image + 0.02).clamp(0, 1))
    write_png(place / "small.png", portrait.image[:, :64, :64])
    torch.manual_seed(0)
    for name in ("first", "other"):
        network = MobileFaceNet()
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        thresholds = json.dumps([{"far": 0.01, "value": 0.3, "source": "this test"}])
        save_file(
            state,
            place / f"{name}.safetensors",
            {"name": name, "thresholds": thresholds, "world": "drawn"},
        )
    return place


def run(folder: Path, *options: str) -> int:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    files = [str(folder / name) for name in ("original.png", "protected.png")]
    recognisers = [
        part
        for name in ("first", "other")
        for part in ("--recogniser", str(folder / f"{name}.safetensors"))
    ]
    args = parser.parse_args(["report", *files, *recognisers, "--detector", "frame", *options])
    return int(args.run(args))


def test_report_writes_the_page_and_the_numbers(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, numbers = tmp_path / "r.html", tmp_path / "r.json"
    code = run(
        folder,
        "--edited",
        str(folder / "edited.png"),
        "--second",
        str(folder / "edited.png"),
        "--hold-out",
        "other",
        "-o",
        str(page),
        "--json",
        str(numbers),
    )
    assert code == 0 and page.read_text().startswith("<!DOCTYPE html>")
    data = json.loads(numbers.read_text())
    assert [(r["name"], r["attacked"]) for r in data["recognisers"]] == [
        ("first", True),
        ("other", False),
    ]
    assert data["recognisers"][0]["second_protected"] is not None
    assert len(data["recognisers"][0]["robustness"]) == 5
    assert data["verdict"]["headline"] in capsys.readouterr().out
    assert str(folder) not in numbers.read_text() + page.read_text()


def test_recognisers_count_as_attacked_unless_said_otherwise(folder: Path, tmp_path: Path) -> None:
    run(folder, "-o", str(tmp_path / "r.html"), "--json", str(tmp_path / "r.json"))
    data = json.loads((tmp_path / "r.json").read_text())
    assert all(r["attacked"] for r in data["recognisers"])
    assert data["edit"]["psnr"] is None
    assert (tmp_path / "r.html").read_text().count("<img") == 4 + 5  # those at full size


def test_bad_arguments_leave_no_file(folder: Path, tmp_path: Path) -> None:
    page = str(tmp_path / "r.html")
    with pytest.raises(
        FluxGuardError,
        match="nobody is neither a file nor one of the recognisers given: first, other",
    ):
        run(folder, "--hold-out", "nobody", "-o", page)
    with pytest.raises(FluxGuardError, match="64x64 pixels, the original 128x128"):
        run(folder, "--edited", str(folder / "small.png"), "-o", page)
    assert list(tmp_path.iterdir()) == []


def test_a_face_hidden_from_the_detector_is_looked_for_where_it_was() -> None:
    image, points = torch.zeros(1, 3, 32, 32), torch.rand(5, 2) * 32
    known = Face((0, 0, 8, 8), points + 1, 0.5)

    def finder(picture: Tensor) -> list[Face]:
        return [Face((0, 0, 8, 8), points, 1.0)] if picture.max() > 0 else []

    assert found_anew(image + 1, known, finder).landmarks is points
    assert found_anew(image, known, finder).landmarks is known.landmarks
    assert found_anew(image + 1, known, None).landmarks is known.landmarks


def test_a_picture_without_a_drawn_face_is_refused(folder: Path, tmp_path: Path) -> None:
    wall = write_png(tmp_path / "wall.png", torch.full((1, 3, 128, 128), 0.5))
    args = argparse.ArgumentParser()
    register(args.add_subparsers())
    given = args.parse_args(["report", str(wall), str(wall), "-o", str(tmp_path / "r.html")])
    with pytest.raises(FluxGuardError, match="could be a drawn portrait's"):
        given.run(given)
