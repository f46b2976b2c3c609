"""Drawing styles for the LoRA: deterministic filters of rendered portraits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PAPER = (0.96, 0.89, 0.76)
INK = (0.20, 0.11, 0.07)


def sepia_drawing(image: Tensor) -> Tensor:
    """Sepia ink drawing of [B,3,H,W] in [0,1]: five tones of brown wash and dark outlines."""
    weights = torch.tensor((0.299, 0.587, 0.114), device=image.device)[None, :, None, None]
    grey = (image * weights).sum(1, keepdim=True)
    steps = grey * 4.0
    whole = steps.floor()
    # A steep ramp instead of a jump keeps the borders of the tones antialiased.
    tones = (whole + ((steps - whole - 0.5) * 5.0 + 0.5).clamp(0.0, 1.0)) / 4.0
    padded = nn.functional.pad(grey, (2, 2, 2, 2), mode="reflect")
    wide = nn.functional.avg_pool2d(padded, 5, 1)
    lines = ((wide - grey - 0.02) * 7.0).clamp(0.0, 1.0)
    paper = torch.tensor(PAPER, device=image.device)[None, :, None, None]
    ink = torch.tensor(INK, device=image.device)[None, :, None, None]
    washed = torch.lerp(ink.expand_as(image), paper.expand_as(image), 0.12 + 0.88 * tones)
    return torch.lerp(washed, ink.expand_as(image), 0.85 * lines)
