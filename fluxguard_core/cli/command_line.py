"""How a command is called on this machine, for messages.

Managers and git put the pack into ComfyUI's custom_nodes without installing it as a package. Then there is no
`fluxguard` command, and the package's folder is run with the Python that runs ComfyUI.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ..errors import Words

_PACKAGE = Path(__file__).resolve().parents[1]


@cache
def installed() -> bool:
    """Whether FluxGuard is installed as a package, so that there is a `fluxguard` command."""
    try:
        return bool(distribution("fluxguard").entry_points)
    except PackageNotFoundError:
        return False


def command(arguments: str) -> str:
    """A command as it can be typed here, in any folder."""
    if installed():
        return f"`fluxguard {arguments}`"
    return f"`{_quoted(sys.executable)} {_quoted(str(_PACKAGE))} {arguments}`"


def pip_install(requirement: str) -> str:
    """The command that installs a package for the Python that runs now."""
    return f"`{_quoted(sys.executable)} -m pip install {requirement}`"


def option(name: str) -> str:
    """An input as an option of the command line."""
    return f"--{name.replace('_', '-')}"


TERMINAL = Words(run=command, install=pip_install, give=option)
"""The command line's words for what would help."""


def _quoted(path: str) -> str:
    return f'"{path}"' if " " in path else path
