"""The command on a photo, with a file of the public PyTorch code's kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fluxguard_core.cli.main import main
from fluxguard_core.defences.attgan import AttGANShape
from fluxguard_core.defences.attgan_training import AttGANPlan, AttGANRun
from fluxguard_core.defences.attributes import PUBLISHED
from fluxguard_core.pictures.files import read_picture, write_png

POINTS = [[40, 45], [62, 44], [51, 58], [42, 68], [61, 67]]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Noise that counts as a photo, with typed points; and an untrained public checkpoint beside it."""
    generator = torch.Generator().manual_seed(0)
    write_png(tmp_path / "me.png", torch.rand(1, 3, 96, 110, generator=generator))
    points = {"me.png": {"points": POINTS, "size": [110, 96]}}
    (tmp_path / "points.json").write_text(json.dumps(points), encoding="utf-8")
    run = AttGANRun.fresh(AttGANShape(PUBLISHED, 64, 8, head=16), AttGANPlan(1))
    state = {"G": run.generator.state_dict(), "D": run.critic.state_dict()}
    torch.save(state, tmp_path / "weights.199.pth")
    return tmp_path / "me.png"


def given(photo: Path, *more: str) -> list[str]:
    here = photo.parent
    out = ["attributes", str(photo), "-o", str(here / "out.png")]
    return [
        *out,
        "--attgan",
        str(here / "weights.199.pth"),
        "--points",
        str(here / "points.json"),
        *more,
    ]


def test_a_public_checkpoint_on_a_photo(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--attribute", "Eyeglasses", "--judge", str(photo.with_name("weights.199.pth")))
    assert main(given(photo, *more)) == 0
    said = capsys.readouterr().out
    assert "weights.199.pth (steered by)" in said and "(unseen)" in said
    assert "No recogniser was asked" in said
    other = photo.with_name("reader.pth")
    run = AttGANRun.fresh(AttGANShape(PUBLISHED, 64, 8, head=16), AttGANPlan(1, seed=1))
    torch.save({"G": run.generator.state_dict(), "D": run.critic.state_dict()}, other)
    assert main(given(photo, *more, "--reader", str(other))) == 0
    assert "reader.pth (steered by)" in capsys.readouterr().out
    numbers = json.loads(photo.with_name("out.json").read_text(encoding="utf-8"))
    assert set(numbers["strengths"]) == set(numbers["wanted"])
    before, after = read_picture(photo).rgb, read_picture(photo.with_name("out.png")).rgb
    # The frame's rim and what lies beyond it stay.
    assert torch.equal(before[..., :3, :3], after[..., :3, :3])


def test_the_attributes_are_the_files_own(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given(photo, "--list")) == 0
    assert capsys.readouterr().out.split() == list(PUBLISHED)
    assert main(given(photo, "--attribute", "Smiling")) == 2
    assert "no attribute 'Smiling'" in capsys.readouterr().err
    assert main(given(photo, "--set", "Bald=yes", "--set", "Bangs=yes")) == 2
    assert "cannot be seen together" in capsys.readouterr().err
    assert main(given(photo, "--names", "A,B", "--list")) == 2
    assert "13 attributes" in capsys.readouterr().err


def test_what_cannot_work_is_told_before_anything_is_written(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given(photo, "--attribute", "Bald", "--identity", "protect")) == 2
    assert "no recogniser to protect against" in capsys.readouterr().err
    assert not photo.with_name("out.png").exists()
    write_png(photo.with_name("out.png"), torch.zeros(1, 3, 8, 8))
    assert main(given(photo, "--attribute", "Bald")) == 2
    assert "no result of FluxGuard" in capsys.readouterr().err
    drawn = ["attributes", str(photo), "-o", str(photo.with_name("x.png")), "--points"]
    assert main([*drawn, str(photo.with_name("points.json")), "--attribute", "Bald"]) in (1, 2)
    assert not photo.with_name("x.png").exists()
