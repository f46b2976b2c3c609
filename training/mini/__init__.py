"""Training and measuring of the miniature world."""

from __future__ import annotations
