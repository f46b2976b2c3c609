"""`fluxguard protect` with recognisers of the public layouts at their real sizes, random weights.

Random weights recognise nobody, so what is shown is that the files are understood, calibrated, attacked with
gradients or left alone, and named in the report.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from fluxguard_core.cli.main import main
from fluxguard_core.mini.portrait_spec import random_spec
from fluxguard_core.mini.renderer import render
from fluxguard_core.pictures.files import read_picture, write_png
from fluxguard_core.recognition.backbones.inception_resnet import InceptionResnetV1
from fluxguard_core.recognition.backbones.iresnet_evolve import IRBackbone
from fluxguard_core.recognition.backbones.mobilefacenet import MobileFaceNet
from fluxguard_core.recognition.input import InputNote, write_note
from fluxguard_core.recognition.onnx import GraphNetwork

from .public_files import public_file
from .test_recognition_onnx import iresnet

RECOGNISERS = (IRBackbone, InceptionResnetV1, MobileFaceNet, GraphNetwork)


@dataclass
class Seen:
    """What recognisers were given while a command ran: sides of their inputs, and gradients at them."""

    sides: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    gradients: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


@contextmanager
def watched() -> Iterator[Seen]:
    seen = Seen()

    def before(module: nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(module, RECOGNISERS):
            name, faces = type(module).__name__, given[0]
            seen.sides[name].add(faces.shape[-1])
            if torch.is_grad_enabled() and faces.requires_grad:
                faces.register_hook(lambda g, n=name: seen.gradients[n].append(float(g.norm())))

    hook = register_module_forward_pre_hook(before)
    try:
        yield seen
    finally:
        hook.remove()


def portrait(path: Path, seed: int = 900_001) -> Path:
    write_png(path, render(random_spec(seed)).image[None])
    return path


def drawn(model: Path) -> str:
    """The file with a note that it knows drawn faces: otherwise nobody lets it judge a drawn portrait."""
    write_note(model, InputNote(world="drawn"))
    return str(model)


def protect(folder: Path, *recognisers: str) -> tuple[dict[str, Any], Tensor]:
    """The report's recognisers by name, and how far the protected portrait is from the edited one."""
    out = folder / "out.png"
    words = ["--prompt", "a person wearing red lipstick", "--steps", "4", "--attacked", "1"]
    words += ["--iterates", "2", "--quiet", "-o", str(out)]
    photo = portrait(folder / "me.png")
    assert main(["protect", str(photo), *words, *recognisers]) == 0
    report = json.loads(out.with_suffix(".json").read_text())
    change = read_picture(out).rgb - read_picture(folder / "out-unprotected.png").rgb
    return {entry["name"]: entry for entry in report["recognisers"]}, change


def test_the_classics_are_attacked_or_only_judge(tmp_path: Path) -> None:
    files = {
        name: drawn(public_file(tmp_path / file, name, wrapped=name == "irse50"))
        for name, file in (
            ("irse50", "model_final.pth.tar"),  # no name says what is inside
            ("facenet", "20180402-114759-vggface2.pt"),
            ("mobile_face", "b.pth"),
        )
    }
    given = ["--recogniser", files["irse50"], "--recogniser", f"{files['facenet']}:both"]
    given += ["--hold-out", files["mobile_face"]]
    with watched() as seen:
        entries, change = protect(tmp_path, *given)
    assert {name: entry["role"] for name, entry in entries.items()} == {
        "irse50": "attacked",
        "facenet": "attacked",
        "mobile_face": "held out",
    }
    assert (
        entries["irse50"]["threshold"] == 0.241045 and entries["facenet"]["threshold"] == 0.409131
    )
    assert all("Adv-Makeup" in entry["source"] for entry in entries.values())
    assert seen.sides == {"IRBackbone": {112}, "InceptionResnetV1": {160}, "MobileFaceNet": {112}}
    assert set(seen.gradients) == {"IRBackbone", "InceptionResnetV1"}
    assert all(min(norms) > 0 for norms in seen.gradients.values())
    assert float(change.abs().max()) > 0.02


def test_ir152_and_an_onnx_recogniser_calibrated_by_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    onnx = drawn(iresnet(tmp_path / "recogniser.onnx", 64, (3, 4, 14, 3), 112, 512))
    ir152 = drawn(public_file(tmp_path / "anything.bin", "ir152"))
    photo = str(portrait(tmp_path / "first.png"))
    first = ["protect", photo, "--prompt", "a person wearing red lipstick"]
    assert main([*first, "-o", str(tmp_path / "out.png"), "--recogniser", onnx]) == 2
    assert "fluxguard calibrate" in capsys.readouterr().err
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    for index in range(46):  # 1035 pairs: ten of them above the threshold
        portrait(strangers / f"{index}.png", 900_100 + index)
    assert main(["calibrate", onnx, "--faces", str(strangers), "--detector", "frame"]) == 0
    with watched() as seen:
        entries, change = protect(tmp_path, "--recogniser", onnx, "--hold-out", ir152)
    assert {name: entry["role"] for name, entry in entries.items()} == {
        "recogniser": "attacked",
        "ir152": "held out",
    }
    assert "own calibration: 46 pictures of 46 people" in entries["recogniser"]["source"]
    assert set(seen.sides) == {"GraphNetwork", "IRBackbone"}
    assert set(seen.gradients) == {"GraphNetwork"} and min(seen.gradients["GraphNetwork"]) > 0
    assert float(change.abs().max()) > 0.02
