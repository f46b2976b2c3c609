"""What a report shows at full size, and whether protected pictures lead to each other."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import torch
from PIL import Image

from fluxguard_core.cli.main import main
from fluxguard_core.evaluate.html_close import closest_look, full_size, links
from fluxguard_core.evaluate.report import Pictures
from fluxguard_core.mini.people import HELD_OUT_WORLD, spec_of
from fluxguard_core.mini.renderer import render
from fluxguard_core.pictures.files import write_png

from .test_evaluate_report import report


def changed_at(row: int, column: int, height: int = 500, width: int = 700) -> Pictures:
    plain = torch.full((1, 3, height, width), 0.5)
    changed = plain.clone()
    changed[..., row - 4 : row + 4, column - 4 : column + 4] += 0.3
    return Pictures(plain, plain, changed)


def test_the_square_lies_around_the_largest_change_and_inside_the_picture() -> None:
    top, bottom, left, right = closest_look(changed_at(250, 350), 100)
    assert top < 250 < bottom and left < 350 < right and bottom - top == right - left == 100
    assert closest_look(changed_at(4, 695), 100) == (0, 100, 600, 700)
    assert closest_look(changed_at(20, 20, 60, 80), 100) == (0, 60, 0, 80)


def test_a_pixel_of_the_picture_is_a_pixel_of_the_page() -> None:
    text = full_size(changed_at(250, 350))
    sizes = re.findall(r'base64,([^"]+)" width="(\d+)" height="(\d+)"', text)
    assert len(sizes) == 5
    for data, width, height in sizes:
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.size == (int(width), int(height)) == (320, 320)
    difference = Image.open(io.BytesIO(base64.b64decode(sizes[3][0])))
    levels = [level for _, (level, *_) in difference.getcolors() or []]
    assert min(levels) == 128 and max(levels) == 204  # no change is grey, +.3 is brighter by .3


def test_links_are_judged_by_each_recognisers_threshold() -> None:
    assert links(report()) == ""
    names = [seen.name for seen in report().recognisers]
    linked = report(links=dict(zip(names, (0.99, -0.5), strict=False)))
    text = links(linked)
    assert "0.990 match" in text and "-0.500 no match" in text
    assert list(linked.to_dict()["links"].values()) == [0.99, -0.5]
    assert any("lead to each other" in gap for gap in report().not_measured)
    assert not any("lead to each other" in gap for gap in linked.not_measured)


def test_the_command_compares_several_protected_pictures(tmp_path: Path) -> None:
    files = []
    for shot in range(3):
        files.append(str(tmp_path / f"{shot}.png"))
        write_png(files[-1], render(spec_of(HELD_OUT_WORLD, 5, shot)).image[None])
    out = tmp_path / "report.html"
    given = ["report", files[0], files[0], "--also", files[1], "--also", files[2], "-o", str(out)]
    assert main(given) == 0
    text = out.read_text(encoding="utf-8")
    assert "lead to each other?" in text and "At full size" in text
