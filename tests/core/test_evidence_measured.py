"""docs/evidence.md against the logs of the runs that measured it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fluxguard_core.evaluate.evidence_tables import tables
from fluxguard_core.pipelines.evidence.log import read_log

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
LOG = ROOT / "docs" / "measured" / "evidence.jsonl"
PHASES = ROOT / "docs" / "measured" / "phases.json"


@pytest.mark.skipif(not LOG.exists(), reason="no log of a run is shipped")
def test_the_page_says_what_the_log_says() -> None:
    """Written by the commands that the page names."""
    for name, table in tables(*read_log(LOG)).items():
        assert table in PAGE, f"docs/evidence.md does not hold the table '{name}':\n{table}"
    assert LOG.stat().st_size < 2**20


@pytest.mark.skipif(not PHASES.exists(), reason="no run of `bench phases` is shipped")
def test_the_phases_are_those_that_were_measured() -> None:
    loops = json.loads(PHASES.read_text(encoding="utf-8"))["loops"]
    for name, phases in loops.items():
        for phase, part in phases.items():
            told = f"{part['seconds']:.1f} s, {part['peak_bytes'] / 2**20:.0f} MiB"
            assert told in PAGE, f"docs/evidence.md does not say '{told}' for {phase} of {name}"
