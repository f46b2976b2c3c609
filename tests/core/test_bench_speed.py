"""`fluxguard bench speed`: both ways on one face, and what a look costs counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fluxguard_core.cli import bench, bench_speed
from fluxguard_core.protect.presets import PHOTO_PRESETS, PRESETS


def test_both_ways_are_timed_on_the_same_face(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photo = replace(PHOTO_PRESETS["default"], steps=2)
    monkeypatch.setitem(PHOTO_PRESETS, "default", photo)
    monkeypatch.setattr(bench_speed, "RECOGNISERS", ("mobile_face",))
    speed = bench_speed.measure("photo", 96, 1)
    assert speed.looks == photo.steps * photo.views and speed.seconds > 0
    assert set(bench_speed.RECOGNISERS) <= set(bench.REAL_SIZES)


def test_the_refiner_takes_all_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    full = PRESETS["default"]
    default = replace(full, attacked=2, refiner=replace(full.refiner, steps=1))
    monkeypatch.setitem(PRESETS, "default", default)
    monkeypatch.setattr(bench_speed, "RECOGNISERS", ("mobile_face",))
    speed = bench_speed.measure("refiner", 64, 1)
    views = 1 + default.random_views
    assert speed.looks == default.attacked * default.refiner.descent.iterates * views
