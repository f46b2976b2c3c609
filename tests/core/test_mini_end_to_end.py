"""The main job on the trained miniature: words in, edit and protection out, with room to spare."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fluxguard_core.cli.main import main
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.evaluate.quality import masked_psnr, ssim
from fluxguard_core.evaluate.similarity import Recognition
from fluxguard_core.mini.faces import classify_attributes
from fluxguard_core.mini.models import miniature
from fluxguard_core.mini.portrait_spec import PortraitSpec, identity, random_spec
from fluxguard_core.mini.renderer import render
from fluxguard_core.pictures.files import write_png
from fluxguard_core.pipelines.models import Models
from fluxguard_core.pipelines.photo import Protected, Wishes, protect_photo
from fluxguard_core.weights import load_manifest
from fluxguard_core.weights.loading import load_tensors
from training.mini.method_quality import edit_areas

# Seeds that no training, calibration or choice of settings has used.
SEEDS = (5_000_001, 5_000_002, 5_000_003, 5_000_004, 5_000_005)
EDIT = "a person wearing red lipstick"


def spec(seed: int) -> PortraitSpec:
    drawn = random_spec(seed, identity(seed))
    plain = replace(drawn.attributes, lipstick="none", beard="no")
    return replace(drawn, attributes=plain)


@pytest.fixture(scope="module")
def models() -> Models:
    return miniature()


@pytest.fixture(scope="module")
def runs(models: Models) -> list[Protected]:
    return [
        protect_photo(models, render(spec(seed)).image[None], Wishes(prompt=EDIT, seed=seed))
        for seed in SEEDS
    ]


def recognised(run: Protected) -> tuple[Recognition, ...]:
    assert run.report is not None, run.unmeasured
    return run.report.recognisers


def test_the_edit_arrives(runs: list[Protected]) -> None:
    seen = [classify_attributes(run.edited)[0]["lipstick"] for run in runs]
    assert seen.count("red") >= 4


def test_the_background_is_the_photos_own(runs: list[Protected]) -> None:
    """Against the photo itself, not against what the autoencoder makes of it."""
    for run in runs:
        areas = edit_areas(run.job.mask)
        for area, least in (("cells", 45), ("ring", 50)):
            assert float((areas[area] == 0).float().mean()) > 0.5
            assert masked_psnr(run.edited, run.photo, areas[area]) > least
        # The perturbation may be anywhere on the head and around it: a few hundred pixels are left.
        touched = torch.maximum(areas["ring"], run.region)
        assert int((touched == 0).sum()) > 400
        assert masked_psnr(run.protected, run.photo, touched) > 50
        assert ssim(run.protected, run.edited) > 0.88


def test_grain_that_the_autoencoder_loses_stays(models: Models) -> None:
    photo = render(spec(SEEDS[0])).image[None]
    grain = 0.04 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(1))
    photo = (photo.clamp(0.2, 0.8) + grain).clamp(0, 1)
    run = protect_photo(models, photo, Wishes(prompt=EDIT), measuring=None)
    plain = models.stack.decode(models.stack.encode(photo))
    outside = edit_areas(run.job.mask)["ring"]
    assert masked_psnr(plain, photo, outside) < 30
    assert masked_psnr(run.edited, photo, outside) > 50


def test_attacked_recognisers_lose_the_person(runs: list[Protected]) -> None:
    results = [r for run in runs for r in recognised(run) if r.attacked]
    assert all(r.protected < r.edited for r in results)
    matched = [r for r in results if r.matches(r.edited)]
    assert len(matched) >= 10
    assert sum(bool(r.withheld) for r in matched) >= 0.85 * len(matched)


def test_recognisers_that_took_no_part_lose_similarity_too(runs: list[Protected]) -> None:
    judges = [r for run in runs for r in recognised(run) if not r.attacked]
    assert {r.name for r in judges} == {"mini-mobileface", "mini-vit"}
    for name in ("mini-mobileface", "mini-vit"):
        drops = torch.tensor([r.edited - r.protected for r in judges if r.name == name])
        assert len(drops) == len(SEEDS) and drops.mean() > 0.2


def test_the_demo_writes_a_report_that_stands_alone(tmp_path: Path) -> None:
    given = ["demo", "--seed", "11", "--preset", "fast", "--quiet", "-o", str(tmp_path)]
    words = ["--prompt", "a person with blond hair, wearing red lipstick"]
    assert main([*given, *words]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"source.png", "edited.png", "protected.png", "report.json", "report.html"}
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 5
    assert "http://" not in page and "https://" not in page and str(tmp_path) not in page
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["evaluations"] == {"inversion": 26, "generation": 30}
    assert "Edited, against the original" in page
    assert "blond" in report["prompt"] and "red lipstick" in report["prompt"]


def test_a_photo_of_the_renderer_is_a_photo(tmp_path: Path) -> None:
    photo = write_png(tmp_path / "drawn.png", render(spec(SEEDS[0])).image[None])
    out = tmp_path / "out.png"
    given = ["protect", str(photo), "--prompt", EDIT, "--preset", "fast", "--quiet", "-o", str(out)]
    assert main(given) == 0
    assert json.loads(out.with_suffix(".json").read_text())["model"] == "miniature"


def test_no_face_and_unknown_words_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    wall = write_png(tmp_path / "wall.png", torch.full((1, 3, 128, 128), 0.5))
    out = str(tmp_path / "out.png")
    assert main(["protect", str(wall), "--prompt", EDIT, "-o", out]) == 2
    assert "No face was found" in capsys.readouterr().err
    assert main(["demo", "--seed", "1", "--prompt", "a person with a spaceship", "-o", out]) == 2
    message = capsys.readouterr().err
    assert "spaceship" in message and "lipstick" in message


@pytest.mark.parametrize("damage", ["missing", "cut", "altered"])
def test_damaged_weights_are_named(tmp_path: Path, damage: str) -> None:
    entry = load_manifest()["fluxguard-mini-vae"]
    from fluxguard_core.mini.world import weights_path

    copy = tmp_path / weights_path("vae").name
    shutil.copy(weights_path("vae"), copy)
    data = bytearray(copy.read_bytes())
    if damage == "missing":
        copy.unlink()
    elif damage == "cut":
        copy.write_bytes(data[:-1000])
    else:
        data[-1] ^= 1
        copy.write_bytes(data)
    with pytest.raises(FluxGuardError, match=copy.name):
        load_tensors(copy, expected=entry)
