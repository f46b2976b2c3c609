"""The miniature's velocity field at several prompts at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..backends.flux import FluxField, FluxStack, Prompt


def asked(stack: FluxStack, prompts: Sequence[str], guidance: float) -> FluxField:
    """The field at one prompt a picture, for batches of as many."""
    every = [stack.encode_prompt(prompt) for prompt in prompts]
    joined = Prompt(torch.cat([p.context for p in every]), torch.cat([p.pooled for p in every]))
    return replace(stack.field("", guidance), prompt=joined)
