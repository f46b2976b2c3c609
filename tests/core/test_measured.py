"""README's tables against the log of the run that measured them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fluxguard_core.protect.presets import preset_named
from training.mini.method_rows import Row, read_networks, read_rows, run_header
from training.mini.method_summary import summary
from training.mini.quality_readme import markdown

from .test_mini_quality import NAMES, made

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LOG = ROOT / "docs" / "measured" / "quality.jsonl"
PICTURES = 100


def figures(rows: list[Row], networks: dict[str, Any] | None) -> dict[str, Any]:
    return {"preset": "default", "method": summary(rows), **(networks or {})}


@pytest.mark.skipif(not LOG.exists(), reason=f"{LOG.name} of the last run is not here")
def test_readme_says_what_the_log_says() -> None:
    """Written by `python -m training.mini quality --log docs/measured/quality.jsonl`, with these weights and this preset."""
    header = run_header(preset_named("default"))
    networks = read_networks(LOG, header, PICTURES)
    assert networks is not None, f"{LOG} does not hold the networks' figures"
    for block in markdown(figures(read_rows(LOG, header), networks)).split("\n\n"):
        assert block in README, f"README does not say:\n{block}"
    assert LOG.stat().st_size < 2**20


def test_the_tables_are_the_figures() -> None:
    rows = [made(person, edit) for person in range(8) for edit in ("beard", "smile")]
    rows[0] = made(0, hit=False)
    edits, recognisers, samples = markdown(
        figures(rows, {"pictures": 20, "samples": {"all": 0.9912}})
    ).split("\n\n")
    assert edits.splitlines()[:2] == ["| 16 edits of 8 people | |", "|---|---|"]
    assert "| the edit arrives, by an attribute classifier | 93.8 % [" in edits
    assert "outside the edit mask (90 % of the pixels) | 40.9 [" in edits
    assert "cells of 8 pixels (80 %) | 54.0 [54.0, 54.0] dB |" in edits
    assert "SSIM | 0.940 [0.940, 0.940] |" in edits
    assert recognisers.splitlines()[2].startswith("| mini-ir | attacked | 100.0 % [")
    assert recognisers.splitlines()[4].startswith("| mini-vit | took no part in anything | 100.0")
    assert recognisers.count("| 0.0 %, 0.0 % | 0.90 to 0.14 |") == len(NAMES)
    assert samples.endswith("draws 99.1 % of its captions' attributes (20 captions)")


def test_likeness_stands_in_the_table_where_it_was_measured() -> None:
    look = {"psnr": 39.0, "haarpsi": 0.95, "shift": 6.0, "skin": 2.0, "spot": 4.0}
    rows = [made(person, edit) for person in range(8) for edit in ("beard", "smile")]
    assert "HaarPSI" not in markdown(figures(rows, None))
    rows[:4] = [made(i // 2, edit, likeness=look) for i, edit in enumerate(["beard", "smile"] * 2)]
    assert "HaarPSI of the face (4 edits) | 0.950 [0.950, 0.950] |" in markdown(figures(rows, None))


def test_the_readme_has_these_tables() -> None:
    """The same rows and columns, whatever the numbers are."""
    rows = [made(person, edit) for person in range(2) for edit in ("beard", "smile")]
    for line in markdown(figures(rows, None)).replace("\n\n", "\n").splitlines():
        words = line.split("|")[1].split("(")[0].strip()
        if words.strip("-") and not words[0].isdigit():
            assert f"| {words} " in README, f"README's tables have no row '{words}'"


def test_a_run_of_this_size_makes_a_small_log() -> None:
    names = [f"mini-{name}" for name in ("ir", "irse", "facenet", "mobileface", "vit")]
    long = dict.fromkeys(names, 0.12345)
    row = made(0, thresholds=long, edited=long, protected=long, noise=long, blur=long)
    assert 500 * len(json.dumps(row.__dict__, separators=(",", ":"))) < 0.8 * 2**20
