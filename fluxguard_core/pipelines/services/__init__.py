"""Commercial face comparison: asked only by a command that asks the user first, never by a node."""

from __future__ import annotations

from .client import Ask, Client
from .providers import PROVIDERS, Answer, Provider

__all__ = ["PROVIDERS", "Answer", "Ask", "Client", "Provider"]
