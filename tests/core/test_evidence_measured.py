"""docs/evidence.md against the logs of the runs that measured it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxguard_core.cli.bench_evidence import weights_used
from fluxguard_core.evaluate.evidence_tables import tables
from fluxguard_core.pipelines.evidence.log import read_log

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
LOG = ROOT / "docs" / "measured" / "evidence.jsonl.gz"


@pytest.mark.skipif(not LOG.exists(), reason="no log of a run is shipped")
def test_the_page_says_what_the_log_says() -> None:
    """Written by the commands that the page names."""
    for name, table in tables(*read_log(LOG)).items():
        assert table in PAGE, f"docs/evidence.md does not hold the table '{name}':\n{table}"
    assert LOG.stat().st_size < 2**20


@pytest.mark.skipif(not LOG.exists(), reason="no log of a run is shipped")
def test_the_log_is_of_the_shipped_weights_so_a_run_goes_on_from_it() -> None:
    held = read_log(LOG)[0]["weights"]
    assert {name: held[name] for name in weights_used()} == weights_used()
