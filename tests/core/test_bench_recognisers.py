"""`fluxguard bench ensemble` and `bench coverage`: what they print is measured, per recogniser and together."""

from __future__ import annotations

import json

import pytest

from fluxguard_core.cli import bench
from fluxguard_core.cli.main import main


def test_recognisers_are_timed_alone_and_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Two of them here; the command without this patch takes all of the public sizes."""
    assert set(bench.REAL_SIZES) >= {"ir152", "irse50", "facenet", "mobile_face", "iresnet50"}
    monkeypatch.setattr(bench, "REAL_SIZES", {"facenet": 160, "mobile_face": 112})
    assert main(["bench", "ensemble", "--repeats", "1", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)["recognisers"]
    assert list(table) == ["facenet", "mobile_face", "together"]
    alone = [table["facenet"], table["mobile_face"]]
    assert table["together"]["weights_bytes"] == sum(row["weights_bytes"] for row in alone)
    assert table["mobile_face"]["weights_bytes"] == pytest.approx(4.9e6, rel=0.02)
    for row in table.values():
        assert 0 < row["forward_seconds"] < row["both_seconds"] and row["peak_bytes"] > 0
    assert table["together"]["both_seconds"] > table["mobile_face"]["both_seconds"]


def test_gradient_coverage_is_told(capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "coverage", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)["coverage"]
    assert all(row["antialiased"] == 1 for row in table.values())
    assert 0.15 < table["512 px to 112"]["plain"] < 0.25
    assert table["1024 px to 112"]["plain"] < table["512 px to 112"]["plain"]
