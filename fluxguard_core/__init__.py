"""The FluxGuard engine: exact flow editing and adaptive face protection for FLUX, in plain PyTorch."""

from __future__ import annotations

__version__ = "0.1.0"
