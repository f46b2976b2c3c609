"""Scripts that ComfyUI's Python runs without a server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from .server import PACK


def inside(installation: tuple[Path, Path], script: str, *arguments: str) -> str:
    """What a script says that runs in the host's Python, without a server."""
    host, python = installation
    file = Path(__file__).parent / script
    command = [str(python), str(file), str(host), str(PACK), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def found(installation: tuple[Path, Path], script: str, *arguments: str) -> Any:
    """The JSON in the last line of what a script says."""
    return json.loads(inside(installation, script, *arguments).splitlines()[-1])
