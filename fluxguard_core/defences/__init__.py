"""Defences beside face recognition, each on the engine of ``protect``: edits, training, cloning."""

from __future__ import annotations
