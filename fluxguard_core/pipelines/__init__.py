"""The main job: from a photo to a protected one, and its report."""

from __future__ import annotations
