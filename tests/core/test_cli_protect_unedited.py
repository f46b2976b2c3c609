"""A photo without words: protected as it is, told in words and numbers, with a picture of where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fluxguard_core.cli.main import main
from fluxguard_core.mini.portrait_spec import random_spec
from fluxguard_core.mini.renderer import render
from fluxguard_core.pictures.files import read_picture, write_png
from fluxguard_core.recognition.backbones.mobilefacenet import MobileFaceNet


def test_a_photo_is_protected_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = json.dumps([{"far": 0.01, "value": 0.4, "source": "made up for tests"}])
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = MobileFaceNet(width=16, depth=(1, 1, 1), dimension=64).state_dict()
        metadata = {"name": f"random{seed}", "thresholds": limits}
        save_file(state, tmp_path / f"random{seed}.safetensors", metadata=metadata)
    photo, out = tmp_path / "me.png", tmp_path / "out.png"
    write_png(photo, render(random_spec(7)).image[None])
    given = ["protect", str(photo), "-o", str(out), "--quiet", "--detector", "miniature"]
    given += ["--recogniser", str(tmp_path / "random1.safetensors")]
    given += ["--hold-out", str(tmp_path / "random2.safetensors"), "--preset", "gentle"]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert "HaarPSI" in said and "random2 (held out)" in said and " matches (above 0.40)" in said
    numbers = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert numbers["preset"] == "gentle" and numbers["likeness"]["haarpsi"] >= 0.949
    before, after = read_picture(photo).rgb, read_picture(out).rgb
    assert before.shape == after.shape and not torch.equal(before, after)
    assert read_picture(tmp_path / "out-where.png").rgb.shape == before.shape
    assert main([*given[:1], str(tmp_path), *given[2:]]) == 2
    assert "one photo" in capsys.readouterr().err


def test_a_recogniser_may_be_named_by_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where its file is not here, the message says how it comes."""
    monkeypatch.setenv("FLUXGUARD_MODELS", str(tmp_path / "models"))
    photo = tmp_path / "me.png"
    write_png(photo, render(random_spec(7)).image[None])
    given = ["protect", str(photo), "-o", str(tmp_path / "out.png"), "--detector", "miniature"]
    assert main([*given, "--recogniser", "auraface", "--hold-out", "sface"]) == 2
    assert "models download auraface" in capsys.readouterr().err
    assert main([*given, "--recogniser", "aurafac"]) == 2
    assert "aurafac" in capsys.readouterr().err
