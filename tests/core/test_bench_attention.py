"""`fluxguard bench attention`: three ways to one result, and what they cost."""

from __future__ import annotations

import json

import pytest
import torch

from fluxguard_core.cli.bench_attention import WAYS, Attention, evaluation
from fluxguard_core.cli.main import main


def test_all_ways_compute_the_same() -> None:
    ready = evaluation(64, 2)
    with torch.no_grad():
        plain = ready()
        for way in WAYS:
            with Attention(way):
                torch.testing.assert_close(ready(), plain, rtol=1e-4, atol=1e-5)


def test_the_whole_matrix_takes_more_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "attention", "--size", "512", "--heads", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tokens"] == 1024 + 64 and list(told["attention"]) == list(WAYS)
    assert all(cost["processor_seconds"] > 0 for cost in told["attention"].values())
    grown = {way: cost["grown"] for way, cost in told["attention"].items()}
    # beside all else, four heads' matrix of 1088 x 1088 twice
    assert grown["whole matrix"] > grown["fused"] + 4 * 1088**2 * 4
