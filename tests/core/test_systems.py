"""The engine and the commands on Windows and macOS, as far as Linux can show it: without what only Unix has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WITHOUT_UNIX = """
import sys
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
"""


def run(program: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_UNIX + program, *arguments],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done.stdout.decode("utf-8", errors="replace")


def test_every_module_is_imported() -> None:
    told = run(
        """
import importlib, pkgutil, fluxguard_core
for module in pkgutil.walk_packages(fluxguard_core.__path__, "fluxguard_core."):
    importlib.import_module(module.name)
    print(module.name)
"""
    )
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "fluxguard_core").rglob("*.py")
    }
    assert set(told.split()) == modules - {"fluxguard_core"}


COMMAND = "from fluxguard_core.cli.main import main; sys.exit(main(sys.argv[1:]))"


def test_the_commands_start() -> None:
    assert "protect" in run(COMMAND, "--help")
    assert "fluxguard-mini-flux" in run(COMMAND, "models", "list")


def test_a_console_that_knows_few_characters_ends_no_command(tmp_path: Path) -> None:
    """Windows gives a pipe the code page of the country, where many characters do not exist."""
    few = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "FLUXGUARD_MODELS": str(tmp_path / "σ")}
    assert "/?/" in run(COMMAND, "models", "where", "auraface", **few)


def test_a_lock_keeps_a_second_one_out(tmp_path: Path) -> None:
    told = run(
        """
from pathlib import Path
from fluxguard_core.weights.errors import DownloadError
from fluxguard_core.weights.locking import exclusive

path = Path(sys.argv[1])
for _ in range(2):
    with exclusive(path, lambda: print("never")):
        try:
            with exclusive(path, lambda: print("waits"), patience=0.2):
                print("both hold it")
        except DownloadError as error:
            print("refused")
    print("left" if path.exists() else "gone")
""",
        str(tmp_path / "w.safetensors.lock"),
    )
    assert told.split() == ["waits", "refused", "gone"] * 2


def test_peak_memory_is_that_of_this_process() -> None:
    held, more = run(
        """
from fluxguard_core.evaluate.memory import peak_memory
before = peak_memory()
block = bytearray(b"x" * 2**28)
del block
print(before, peak_memory())
"""
    ).split()
    assert 2**25 < int(held) < 2**32 and 2**28 <= int(more) - int(held) + 2**24 < 2**30
