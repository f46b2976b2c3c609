"""Where a ComfyUI must be there, a skipped host test is a failure, but for those that need another pack beside it."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

_HOSTED = (Path(__file__).parent / "host", Path(__file__).parent / "browser")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn skips into failures under FLUXGUARD_REQUIRE_HOST, which continuous integration sets."""
    report = yield
    hosted = any(item.path.is_relative_to(folder) for folder in _HOSTED)
    excused = item.get_closest_marker("another_pack") is not None
    if report.skipped and hosted and not excused and os.environ.get("FLUXGUARD_REQUIRE_HOST"):
        report.outcome = "failed"
        report.longrepr = f"skipped although a ComfyUI is here: {report.longrepr}"
    return report
