"""Adaptive protection of a face against recognition."""

from __future__ import annotations
