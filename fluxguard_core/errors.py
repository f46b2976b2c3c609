"""Errors that reach a person: what was expected, what came, and what would help.

The engine does not know how it is being used. A remedy therefore marks what a front end has its own words for,
and the command line and the nodes each put it into theirs:

    ‹run calibrate FILE --faces DIR›   a FluxGuard command
    ‹install onnx›                     a Python package
    ‹give mask›                        an input of the front end
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_MARK = re.compile(r"‹(run|install|give) ([^›]+)›")


@dataclass(frozen=True)
class Words:
    """A front end's words for a command, a package to install, and an input."""

    run: Callable[[str], str]
    install: Callable[[str], str]
    give: Callable[[str], str]

    def __call__(self, text: str) -> str:
        """Text with every mark put into these words."""
        return _MARK.sub(lambda mark: getattr(self, mark[1])(mark[2]), text)


LIBRARY = Words(
    run=lambda arguments: f"`fluxguard {arguments}`",
    install=lambda requirement: f"`pip install {requirement}`",
    give=lambda name: f"'{name}'",
)


class FluxGuardError(RuntimeError):
    """Anything the user can act on.

    Args:
        message: what was expected and what came; may hold marks, as the remedy may.
        remedy: what would help, in sentences.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def told(self, words: Words) -> str:
        """The whole error in a front end's words."""
        return words(f"{self.message} {self.remedy}".strip())

    def __str__(self) -> str:
        return self.told(LIBRARY)


class Interrupted(FluxGuardError):
    """The user stopped a run; whatever was best so far has been kept."""
