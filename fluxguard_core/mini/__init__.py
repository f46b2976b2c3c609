"""The miniature world: drawn portraits, and small trained networks of every kind the method needs."""

from __future__ import annotations
