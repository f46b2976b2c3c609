"""Photos without words: protected as they are, one or many, told in words and numbers, with a picture of where."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fluxguard_core.backends.taesd import narrow_autoencoder, padded_state
from fluxguard_core.cli.main import main
from fluxguard_core.mini.faces import find_faces
from fluxguard_core.mini.portrait_spec import random_spec
from fluxguard_core.mini.renderer import render
from fluxguard_core.pictures.files import read_picture, write_png
from fluxguard_core.recognition.backbones.mobilefacenet import MobileFaceNet


@pytest.fixture(scope="module")
def recognisers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Random ones that say that they know drawings: one attacked, one that only judges."""
    folder = tmp_path_factory.mktemp("recognisers")
    limits = json.dumps([{"far": far, "value": 0.4 + far, "source": "tests"} for far in (0, 0.01)])
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = MobileFaceNet(width=16, depth=(1, 1, 1), dimension=64).state_dict()
        metadata = {"name": f"random{seed}", "thresholds": limits, "world": "drawn"}
        save_file(state, folder / f"random{seed}.safetensors", metadata=metadata)
    judges = ["--hold-out", str(folder / "random2.safetensors")]
    return ["--recogniser", str(folder / "random1.safetensors"), *judges]


def portrait(seed: int) -> torch.Tensor:
    return render(random_spec(seed)).image[None]


def test_a_photo_is_protected_as_it_is(
    tmp_path: Path, recognisers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = write_png(tmp_path / "me.png", portrait(7)), tmp_path / "out.png"
    second = write_png(tmp_path / "again.png", portrait(8))
    given = ["protect", str(photo), "-o", str(out), "--quiet", "--detector", "miniature"]
    given += [*recognisers, "--preset", "gentle", "--html", "--second", str(second)]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert "HaarPSI" in said and "random2 (held out)" in said and " matches (above 0.41)" in said
    assert "gentle: a smaller budget" in said
    numbers = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    (look,) = numbers["likeness"]
    assert numbers["preset"] == "gentle" and look["haarpsi"] >= 0.949
    assert {entry["role"] for entry in numbers["recognisers"]} == {"attacked", "held out"}
    assert all(entry["second_protected"] is not None for entry in numbers["recognisers"])
    assert all(entry["robustness"] for entry in numbers["recognisers"])
    page = out.with_suffix(".html").read_text(encoding="utf-8")
    assert "Likeness, as friends see it" in page and "Where the protection may be seen" in page
    assert look["told"].split(" (")[0] in page
    before, after = read_picture(photo).rgb, read_picture(out).rgb
    assert before.shape == after.shape and not torch.equal(before, after)
    assert read_picture(tmp_path / "out-where.png").rgb.shape == before.shape
    assert not (tmp_path / "out-unprotected.png").exists()
    assert main(given) == 0 and "done already" in capsys.readouterr().out


def test_a_folder_is_resumed_and_one_pictures_trouble_stays_its_own(
    tmp_path: Path, recognisers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for seed in (7, 9):
        write_png(photos / f"{seed}.png", portrait(seed))
    (photos / "8.png").write_bytes(b"no picture")
    given = ["protect", str(photos), "-o", str(out), "--quiet", "--detector", "miniature"]
    given += [*recognisers, "--optimiser-steps", "2"]
    assert main([*given, "--dry-run"]) == 0
    assert "2 steps a face in pixels" in capsys.readouterr().out and not out.exists()
    assert main(given) == 1
    told = capsys.readouterr()
    # two steps protect from nobody, and the last line does not say otherwise
    assert told.out.count("Not protected: every recogniser") == 2
    assert "8.png" in told.err
    assert "0 protected, 2 worked on, but every recogniser still matches, 1 of 3" in told.err
    times = {path: path.stat().st_mtime_ns for path in out.glob("?.png")}
    assert sorted(path.name for path in times) == ["7.png", "9.png"]
    write_png(photos / "8.png", portrait(8))
    assert main(given) == 0
    assert "2 done already" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == when for path, when in times.items())
    assert (out / "8.png").is_file() and (out / "8-where.png").is_file()


def test_points_of_a_file_several_faces_and_an_autoencoder(
    tmp_path: Path, recognisers: list[str]
) -> None:
    """Nothing looks for a face, both are protected, and the latent takes part."""
    both = torch.cat([portrait(7), portrait(9)], 3)
    photo, out = write_png(tmp_path / "both.png", both), tmp_path / "out.png"
    points = [find_faces(portrait(seed)[0])[0].landmarks for seed in (7, 9)]
    rows = [p + torch.tensor([128.0 * i, 0]) for i, p in enumerate(points) if p is not None]
    listed = {"both.png": [{"points": row.tolist()} for row in rows]}
    file = tmp_path / "points.json"
    file.write_text(json.dumps(listed), encoding="utf-8")
    torch.manual_seed(0)
    coder = tmp_path / "coder.safetensors"
    save_file(padded_state(narrow_autoencoder((8, 8, 8, 8), (0, 1, 1, 1), (1, 1, 1, 0))), coder)
    given = ["protect", str(photo), "-o", str(out), "--quiet", "--points", str(file), *recognisers]
    given += ["--face", "all", "--optimiser-steps", "2"]
    assert main(given) == 0
    pixels = read_picture(out).rgb
    numbers = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert len(numbers["likeness"]) == 2 and numbers["settings"]["space"] == "pixels"
    names = [entry["name"] for entry in numbers["recognisers"]]
    assert names == ["random1, face 0", "random2, face 0", "random1, face 1", "random2, face 1"]
    changed = (pixels - both).abs().amax(1)[0] > 0
    assert changed[:, :128].any() and changed[:, 128:].any()
    assert main([*given, "--autoencoder", str(coder), "--again"]) == 0
    numbers = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert numbers["settings"]["space"] == "pixels and latent"
    assert "autoencoder" in {a["name"] for a in numbers["recognisers"][0]["robustness"]}
    assert not torch.equal(read_picture(out).rgb, pixels)


def test_what_knows_photos_keeps_off_drawings(
    tmp_path: Path, recognisers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(3)
    file = tmp_path / "m.safetensors"
    save_file(MobileFaceNet(width=16, depth=(1, 1, 1), dimension=64).state_dict(), file)
    photo = write_png(tmp_path / "me.png", portrait(7))
    given = ["protect", str(photo), "-o", str(tmp_path / "out.png"), "--quiet"]
    box = ["--detector", "box:20,20,100,110"]
    assert main([*given, *box, "--recogniser", str(file)]) == 2
    assert "a drawn portrait of the miniature's kind" in capsys.readouterr().err
    noise = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    write_png(photo, (noise * 255).round() / 255)
    assert main([*given, *box, *recognisers]) == 2
    assert "random1 and random2 know only" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_a_recogniser_may_be_named_by_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where its file is not here, the message says how it comes; without any, the shortest way to some."""
    monkeypatch.setenv("FLUXGUARD_MODELS", str(tmp_path / "models"))
    photo = write_png(tmp_path / "me.png", portrait(7))
    given = ["protect", str(photo), "-o", str(tmp_path / "out.png"), "--detector", "miniature"]
    assert main([*given, "--recogniser", "auraface", "--hold-out", "sface"]) == 2
    assert "models download auraface" in capsys.readouterr().err
    assert main([*given, "--recogniser", "aurafac"]) == 2
    assert "aurafac" in capsys.readouterr().err
    assert main(given) == 2
    told = capsys.readouterr().err
    assert "models download auraface sface yunet" in told and "Apache-2.0" in told and "MIT" in told
    assert main([*given, "--recogniser", "auraface", "--intervals", "3"]) == 2
    assert re.search("--intervals belongs to an edit", capsys.readouterr().err)
