"""How workflows/*.json and subgraphs/*.json are made."""

from __future__ import annotations
