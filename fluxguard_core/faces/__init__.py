"""Where a picture shows faces: detectors, landmarks, alignment, and the choice among them."""

from __future__ import annotations
