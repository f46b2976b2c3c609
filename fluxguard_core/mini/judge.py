"""Whether a picture is a drawn portrait of the miniature's world, told by how sure its face parser is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..worlds import World
from .faces import SIDE, parser_net

# Share of pixels at which the parser gives its own label less than 0.9: at most 0.095 on 100 drawn portraits,
# at least 0.25 on 48 photos of 16 people.
SURE = 0.9
UNSURE_SHARE = 0.17


@torch.no_grad()
def unsure_share(picture: Tensor) -> float:
    """Share of pixels of [3,H,W] or [1,3,H,W], cut to its middle square, where the parser is unsure."""
    pixels = picture.detach().float().cpu()
    pixels = pixels[None] if pixels.ndim == 3 else pixels[:1]
    height, width = pixels.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[..., top : top + side, left : left + side]
    view = F.interpolate(square, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1)
    best = parser_net()(view).softmax(1).amax(1)
    return float((best < SURE).float().mean())


def world_of(picture: Tensor) -> World:
    """`drawn` for the renderer's portraits and what the miniature makes of them, else `photo`."""
    return "drawn" if unsure_share(picture) < UNSURE_SHARE else "photo"
