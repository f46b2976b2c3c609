"""The whitelist: what an operator of the ONNX standard does, in PyTorch, differentiably.

Everything that is not listed is refused by name. Semantics: ONNX operator reference, opset 7 and
later.
"""

from __future__ import annotations

from . import layers, pointwise, shapes
from .whitelist import OPERATORS, Apply

ALIASES = frozenset({"Identity", "Dropout"})
"""Operators without effect at inference; the reader removes them."""

__all__ = ["ALIASES", "OPERATORS", "Apply", "layers", "pointwise", "shapes"]
