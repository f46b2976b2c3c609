"""Errors that reach a person. Each message says what was expected, what came, and what to do."""

from __future__ import annotations


class FluxGuardError(RuntimeError):
    """Anything the user can act on; the command line prints it and exits with code 2."""


class Interrupted(FluxGuardError):
    """The user stopped a run; whatever was best so far has been kept."""
