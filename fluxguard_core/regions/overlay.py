"""A mask as a person can judge it: each region in a colour of its own over the picture, with its name."""

from __future__ import annotations

import colorsys

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .found import Found
from .morphology import dilate

OPACITY = 0.45


def region_colours(names: tuple[str, ...]) -> dict[str, tuple[float, float, float]]:
    """A colour in [0,1] for each region, far apart in hue."""
    return {
        name: colorsys.hsv_to_rgb((i * 0.618034) % 1.0, 0.85, 1.0) for i, name in enumerate(names)
    }


def overlay(picture: Tensor, found: Found) -> Tensor:
    """Picture [1,3,H,W] with its regions in colour, the mask's edge in white, and a legend of shares.

    What a given mask has cut off a region is not painted; what was added or grown lies plain inside the edge.
    """
    shown = picture.detach().float().cpu().clone()
    mask = found.mask.float().cpu()
    for name, colour in region_colours(found.names).items():
        here = (found.regions or {}).get(name)
        part = mask if here is None else here.cpu() * (mask > 0)
        paint = torch.tensor(colour).view(1, 3, 1, 1)
        shown = torch.lerp(shown, paint.expand_as(shown), OPACITY * part)
    hard = mask > 0.5
    edge = (dilate(hard, 1) & ~hard).float()
    shown = torch.lerp(shown, torch.ones_like(shown), edge)
    return _with_legend(shown, found)


def _with_legend(shown: Tensor, found: Found) -> Tensor:
    pixels = (shown[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    size = max(9, image.height // 40)
    for row, (name, colour) in enumerate(region_colours(found.names).items()):
        red, green, blue = (round(255 * part) for part in colour)
        y = 4 + row * (size + 4)
        draw.rectangle((4, y, 4 + size, y + size), fill=(red, green, blue))
        draw.text(
            (10 + size, y),
            f"{name} {100 * found.shares[name]:.1f} %",
            fill="white",
            stroke_width=1,
            stroke_fill="black",
            font_size=size,
        )
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255).permute(2, 0, 1)[None]
