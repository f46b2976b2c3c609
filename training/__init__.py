"""What made the shipped weights and measured them: developer's tools, not part of the package."""

from __future__ import annotations
