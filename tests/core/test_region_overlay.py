"""The coloured overlay where people meet it: in the report of an edit, beside a mask, with a given mask."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fluxguard_core.cli.main import main
from fluxguard_core.mini.portrait_spec import PortraitSpec, identity, random_spec, with_attributes
from fluxguard_core.mini.renderer import render
from fluxguard_core.pictures.files import read_picture, write_png
from fluxguard_core.regions import grow, region_mask
from fluxguard_core.regions.overlay import OPACITY, region_colours

LEGEND = 40
"""Rows at the top that the legend of two regions stays within."""


def person() -> PortraitSpec:
    changes = {"hair_style": "short", "hair_colour": "brown", "hat": "none", "lipstick": "none"}
    return with_attributes(random_spec(7, identity(7)), **changes)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return write_png(tmp_path / "drawn.png", render(person()).image[None])


def figures(page: Path) -> dict[str, tuple[Tensor, str]]:
    """Pictures [3,H,W] of a report with their captions, by what they are said to show."""
    found = re.findall(
        r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"><figcaption>(.*?)</figcaption>',
        page.read_text(encoding="utf-8"),
    )
    return {alt: (_picture(data), caption) for data, alt, caption in found}


def _picture(data: str) -> Tensor:
    array = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).copy()
    return torch.from_numpy(array).permute(2, 0, 1).float() / 255


def assert_painted(shown: Tensor, plain: Tensor, parts: dict[str, Tensor]) -> None:
    """Every part [H,W] is tinted in its colour, and nothing is that is not beside one."""
    colours = region_colours(tuple(parts))
    for name, part in parts.items():
        inner = grow(part[None, None].float(), -2)[0, 0] > 0.5
        inner[:LEGEND] = False
        assert int(inner.sum()) > 20, name
        tinted = torch.lerp(plain, torch.tensor(colours[name])[:, None, None], OPACITY)
        right = ((shown - tinted).abs().amax(0) < 0.03)[inner].float().mean()
        assert float(right) > 0.9, (name, float(right))
    beside = grow(torch.stack(list(parts.values())).any(0)[None, None].float(), 12)[0, 0] > 0.5
    beside[:LEGEND] = True
    assert int((~beside).sum()) > 300
    assert float((shown - plain).abs().amax(0)[~beside].max()) < 0.01


def test_the_report_of_an_edit_shows_the_regions_in_colour(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    words = ["--prompt", "a person with blond hair, wearing red lipstick", "--preset", "fast"]
    less = ["--attack-last", "1", "--optimiser-steps", "1", "--quiet", "--html", "-o", str(out)]
    assert main(["protect", str(photo), *words, *less]) == 0
    shown = figures(out.with_suffix(".html"))
    overlay, told = shown["the edit mask on the original"]
    labels = render(person()).labels
    assert "hair " in told and "lips " in told and "by face parser" in told
    parts = {name: region_mask(name, labels) for name in ("hair", "lips")}
    assert_painted(overlay, shown["the original portrait"][0], parts)


def test_the_overlay_beside_a_mask_paints_what_a_given_mask_leaves(
    photo: Path, tmp_path: Path
) -> None:
    left = torch.zeros(1, 1, 128, 128)
    left[..., :64] = 1
    given = write_png(tmp_path / "left.png", left)
    words = ["--prompt", "red hair", "--mask", str(given), "--combine", "intersect", "--overlay"]
    assert main(["mask", str(photo), "-o", str(tmp_path / "mask.png"), *words]) == 0
    overlay = read_picture(tmp_path / "mask-overlay.png").rgb[0]
    hair = region_mask("hair", render(person()).labels) & (left[0, 0] > 0)
    assert_painted(overlay, read_picture(photo).rgb[0], {"hair": hair})
