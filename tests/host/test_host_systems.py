"""The nodes on Windows and macOS, as far as Linux can show it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from .server import PACK

HERE = Path(__file__).parent


def test_the_nodes_start_without_what_only_unix_has(installation: tuple[Path, Path]) -> None:
    host, python = installation
    done = subprocess.run(
        [python, HERE / "without_unix.py", host, PACK], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    snapshot = json.loads((HERE / "schemas.json").read_text(encoding="utf-8"))
    assert set(snapshot) <= set(done.stdout.split())
