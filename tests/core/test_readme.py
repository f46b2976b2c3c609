"""README's library example protects, run letter by letter."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from fluxguard_core.mini.portrait_spec import identity, random_spec, with_attributes
from fluxguard_core.mini.renderer import render
from fluxguard_core.pictures.files import read_picture, write_png

README = Path(__file__).parents[2] / "README.md"


def test_the_library_example_protects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    spec = with_attributes(random_spec(6_000_001, identity(6_000_001)), lipstick="none")
    monkeypatch.chdir(tmp_path)
    write_png("portrait.png", render(spec).image[None])
    Path("example.py").write_text(example, encoding="utf-8")
    runpy.run_path("example.py")
    before, after = read_picture("portrait.png").rgb, read_picture("protected.png").rgb
    assert before.shape == after.shape and float((before - after).abs().max()) > 0.05
    lines = capsys.readouterr().out.splitlines()
    assert sum(", attacked: " in line for line in lines) == 3
    assert sum(", held out: " in line for line in lines) == 2
    for line in lines:
        was, now = map(float, re.findall(r"-?\d\.\d\d", line))
        assert now < was - 0.2
