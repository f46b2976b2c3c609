"""Pictures as files and as tensors: reading, writing, geometry, crops."""

from __future__ import annotations
