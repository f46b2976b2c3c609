"""Messages in the words of a graph: commands as they can be typed here, inputs by their names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..fluxguard_core import errors
from ..fluxguard_core.errors import FluxGuardError, Words

_PYTHON = sys.executable
_ENGINE = Path(errors.__file__).resolve().parent


def _quoted(path: str) -> str:
    return f'"{path}"' if " " in path else path


def command(arguments: str) -> str:
    """A FluxGuard command for a terminal: the engine's folder, run by the Python that runs the host."""
    return f"`{_quoted(_PYTHON)} {_quoted(str(_ENGINE))} {arguments}` in a terminal"


def pip_install(requirement: str) -> str:
    """The command that installs a package for the Python that runs the host."""
    return f"`{_quoted(_PYTHON)} -m pip install {requirement}` in a terminal"


NODES = Words(run=command, install=pip_install, give=lambda name: f"the input {name}")
"""The nodes' words for what would help."""


class NodeError(FluxGuardError):
    """An error of the engine as a node shows it."""

    def __str__(self) -> str:
        return self.told(NODES)


@contextmanager
def in_nodes_words() -> Iterator[None]:
    """Let errors of the engine leave in the nodes' own words."""
    try:
        yield
    except NodeError:
        raise
    except FluxGuardError as error:
        raise NodeError(error.message, error.remedy) from error
