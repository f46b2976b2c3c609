"""The tables of docs/attributes.md against the logs of the runs that measured them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.mini.attributes_ship import Outcome, kept_answers
from training.mini.attributes_ship import table as flipped_table
from training.mini.cloak_quality import table as identity_table
from training.mini.cloak_warm import table as warm_table
from training.mini.deepfakes_quality import table as broken_table
from training.mini.deepfakes_transfer import table as transfer_table

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "attributes.md").read_text(encoding="utf-8")


def rows_of(name: str) -> list[dict[str, Any]]:
    file = DOCS / "measured" / name
    if not file.is_file():
        pytest.skip(f"{name} of the last run is not here")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def outcomes(mode: str) -> list[Outcome]:
    rows = [row for row in rows_of("attributes.jsonl") if row["mode"] == mode]
    return [Outcome(**{k: v for k, v in row.items() if k != "mode"}) for row in rows]


def test_what_turned_is_what_the_log_says() -> None:
    for line in flipped_table(outcomes("flip")):
        assert line in TEXT, f"docs/attributes.md does not say:\n{line}"


def test_what_neutralising_left_is_what_the_log_says() -> None:
    half = outcomes("neutralise")
    assert f"{kept_answers(half):.0%} of {len(half)}".replace("%", " %") in TEXT


def test_what_a_cloak_broke_is_what_the_log_says() -> None:
    for line in broken_table(rows_of("cloaks.jsonl")):
        assert line in TEXT, f"docs/attributes.md does not say:\n{line}"


def test_what_breaks_one_model_on_the_others_is_what_the_log_says() -> None:
    for line in transfer_table(rows_of("cloak-transfer.jsonl")):
        assert line in TEXT, f"docs/attributes.md does not say:\n{line}"


def test_what_an_identity_cloak_did_is_what_the_log_says() -> None:
    for line in identity_table(rows_of("identity-cloak.jsonl")):
        assert line in TEXT, f"docs/attributes.md does not say:\n{line}"


def test_the_steps_that_a_cloak_saves_are_what_the_log_says() -> None:
    for line in warm_table(rows_of("cloak-warm.jsonl")):
        assert line in TEXT, f"docs/attributes.md does not say:\n{line}"


def test_a_share_of_fewer_people_says_how_many() -> None:
    row = {"model": "toy", "seen": False, "psnr": 34.0, "cloak": 0.06, "jpeg": 0.04, "noise": 0.0}
    rows: list[dict[str, Any]] = [{"person": n, **row} for n in range(4)]
    rows[0]["ascent"] = 0.2
    rows[3]["cloak"] = 0.01
    last = broken_table([*rows, {"model": "toy", "seen": False, "frechet": 1.25}])[-1]
    assert last == "| toy | **no** | 4 | 75% | 0% | 0% | 100% of 1 | 0.048 | 1.250 | 34.0 |"
