"""The command line's own commands; each area of the engine brings its further ones."""

from __future__ import annotations
