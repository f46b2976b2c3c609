"""Drawn portraits and photos are told apart, and networks of one world never judge pictures of the other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fluxguard_core.cli.main import main
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.faces import weights_path
from fluxguard_core.mini.world_check import WEIGHTS, likeness_to_a_drawing, world_of
from fluxguard_core.pictures.files import write_png
from fluxguard_core.recognition.backbones.mobilefacenet import MobileFaceNet
from fluxguard_core.recognition.loading import load_encoder
from fluxguard_core.worlds import WORLDS
from training.mini import worlds_quality as quality
from training.mini.commands import main as mini
from training.mini.worlds_quality import DRAWN, portrait, resized

REAL = Path(os.environ.get("FLUXGUARD_REAL", "none"))
"""A folder with photos/NAME/*.jpg of real people, for local measuring."""
SHIFTS = {"apart": (("drawn", 4.0), ("photo", -4.0))}


def portraits(count: int) -> Iterator[Tensor]:
    return map(portrait, range(count))


def test_portraits_are_drawn() -> None:
    """In every state, but for one in a hundred."""
    count = int(os.environ.get("FLUXGUARD_PORTRAITS", "6"))
    likeness = {
        (number, change): likeness_to_a_drawing(make(image))
        for number, image in enumerate(portraits(count))
        for change, make in DRAWN.items()
    }
    wrong = [name for name, value in likeness.items() if value < 0]
    assert len(wrong) <= max(1, len(likeness) // 100), wrong


@pytest.mark.skipif(
    not REAL.is_dir(), reason="FLUXGUARD_REAL names no folder with photos of people"
)
def test_photos_are_photos_also_to_rules_fitted_without_them(tmp_path: Path) -> None:
    """Give FLUXGUARD_WORLDS a file to keep the clues in: 1,524 pictures take a while."""
    log = Path(os.environ.get("FLUXGUARD_WORLDS", tmp_path / "worlds.jsonl"))
    rows = quality.measured(REAL / "photos", 300, log)
    for found in (quality.judged(rows, WEIGHTS), quality.crossvalidated(rows)):
        counts = quality.summary(found)
        assert counts["photo"]["right"] >= 0.99 * counts["photo"]["of"] >= 0.99 * 600, counts
        assert counts["drawn"]["right"] >= 0.99 * counts["drawn"]["of"] >= 0.99 * 900, counts


def made_up(world: str, group: int, shift: float) -> quality.Row:
    """Clues about a middle, each moved; drawings and photos apart by `shift` in one of them."""
    generator = torch.Generator().manual_seed(group)
    names = [name for name in WEIGHTS if name != "bias"]
    clues = dict(zip(names, torch.randn(len(names), generator=generator).tolist(), strict=True))
    clues["round trip"] += shift
    return quality.Row(f"{world} {group}", world, group, "as it is", clues)  # type: ignore[arg-type]


def test_the_cross_validation_judges_what_its_rule_has_not_seen() -> None:
    """What differs is found; what does not differ is guessed, though a rule that has seen it would know it."""
    apart = [made_up(world, n, shift) for n in range(40) for world, shift in SHIFTS["apart"]]
    counts = quality.summary(quality.crossvalidated(apart))
    assert counts["drawn"]["right"] == counts["photo"]["right"] == 40
    alike = [made_up(world, n + 100 * (world == "photo"), 0) for n in range(12) for world in WORLDS]
    known = quality.summary(quality.judged(alike, quality.fitted(alike)))
    guessed = quality.summary(quality.crossvalidated(alike))
    right = [counts["drawn"]["right"] + counts["photo"]["right"] for counts in (known, guessed)]
    assert right[0] >= 20 and right[1] <= 18, right


def test_the_command_takes_clues_from_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "worlds.jsonl"
    assert mini(["worlds", "--portraits", "2", "--log", str(log)]) == 0
    told = capsys.readouterr().out
    assert '"drawn": {"right": 6, "of": 6' in told and "cross-validated" not in told
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert [row["change"] for row in rows] == [list(DRAWN)[n] for n in (0, 4, 8, 1, 5, 9)]
    rows[0]["clues"]["round trip"] -= 99
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert mini(["worlds", "--portraits", "2", "--log", str(log)]) == 0
    assert '"right": 5, "of": 6' in capsys.readouterr().out


def test_a_picture_without_a_face_is_no_portrait() -> None:
    noise = torch.rand(3, 90, 140, generator=torch.Generator().manual_seed(0))
    assert (
        world_of(noise)
        == world_of(resized(noise, 9, 14))
        == world_of(torch.zeros(1, 3, 64, 64))
        == "photo"
    )
    with pytest.raises(FluxGuardError, match="Expected a picture"):
        world_of(torch.rand(2, 3, 8, 8))


def test_a_photo_is_kept_from_the_miniature(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the renderer did not draw is refused by name, with the ways on, before anything is made."""
    noise = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    photo = write_png(tmp_path / "photo.png", noise)
    words = ["--prompt", "a person with red lipstick", "-o", str(tmp_path / "out.png"), "--quiet"]
    assert main(["protect", str(photo), *words]) == 2
    told = capsys.readouterr().err
    assert "photo.png is a photo" in told and "--recogniser FILE" in told
    assert "models download auraface sface yunet" in told
    assert main(["report", str(photo), str(photo), "-o", str(tmp_path / "r.html")]) == 2
    assert "every verdict would mean nothing" in capsys.readouterr().err
    (tmp_path / "faces").mkdir()
    for index in range(3):
        write_png(tmp_path / f"faces/{index}.png", noise)
    model = tmp_path / "copy.safetensors"
    model.write_bytes(weights_path("mobileface").read_bytes())
    assert load_encoder(model).world == "drawn"  # wherever it lies and whatever it is called
    assert (
        main(["calibrate", str(model), "--faces", str(tmp_path / "faces"), "--detector", "frame"])
        == 2
    )
    assert "3 of 3 pictures" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.safetensors", "faces", "photo.png"]


def test_a_recogniser_of_photos_is_not_calibrated_on_drawings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, image in enumerate(portraits(3)):
        (tmp_path / "faces").mkdir(exist_ok=True)
        write_png(tmp_path / f"faces/{index}.png", image)
    torch.manual_seed(0)
    network = MobileFaceNet(width=8, depth=(1, 1, 1), dimension=32, size=32)
    model = tmp_path / "m.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, model)
    given = ["calibrate", str(model), "--faces", str(tmp_path / "faces"), "--detector"]
    assert main([*given, "frame"]) == 2
    assert "drawings, and the recogniser knows photos only" in capsys.readouterr().err
    assert main([*given, "miniature"]) == 2
    assert "knows drawn portraits only" in capsys.readouterr().err
