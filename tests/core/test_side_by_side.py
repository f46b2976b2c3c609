"""The script that `make test` runs core and host tests with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "side_by_side.py"


def run(*commands: str, python: Sequence[str] = ()) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, *python, SCRIPT, *commands], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("bad", ["a", "b", None])
def test_one_failure_is_enough_and_stops_nobody(bad: str | None) -> None:
    commands = [f"{name}=echo from {name}; exit {3 * (name == bad)}" for name in "ab"]
    code, lines = run(*commands)
    assert code == (1 if bad else 0)
    assert {"a | from a", "b | from b"} <= set(lines)
    assert lines[-1] == (f"failed: {bad}" if bad else "passed: a, b")
    assert any(line.startswith(f"{bad} | FAILED with exit code 3") for line in lines) == bool(bad)


def test_lines_of_two_commands_are_never_joined() -> None:
    """Unbuffered, as many builders run Python, where a line and its end may be written apart."""
    many = "for i in $(seq 5000); do echo line $i; done"
    code, lines = run(f"a={many}", f"b={many}", python=["-u"])
    assert code == 0
    assert {f"{name} | line {i}" for name in "ab" for i in range(1, 5001)} <= set(lines)
    assert len(lines) == 10003


def test_they_run_at_the_same_time(tmp_path: Path) -> None:
    """Each waits for a file that the other one writes."""
    wait = "for i in 1 2 3 4 5 6 7 8 9 10; do [ -e {0} ] && exit 0; sleep 0.5; done; exit 1"
    one, two = tmp_path / "one", tmp_path / "two"
    code, _ = run(f"a=touch {one}; {wait.format(two)}", f"b=touch {two}; {wait.format(one)}")
    assert code == 0
