"""Signed distances and a canvas: the few drawing primitives of the portrait renderer.

Coordinates are face units: the square frame spans [-1, 1] in x (right) and y (down). Distances are
negative inside; a first-order distance f/|grad f| is enough, since only its zero set and its slope there
show. All tensors broadcast over [B,H,W].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def ellipse(x: Tensor, y: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """First-order distance to the ellipse with half axes a and b around the origin."""
    u, v = x / a, y / b
    r = torch.sqrt(u * u + v * v + 1e-6)
    slope = torch.sqrt((u / a) ** 2 + (v / b) ** 2 + 1e-6)
    return (r - 1.0) * r / slope


def box(x: Tensor, y: Tensor, a: Tensor | float, b: Tensor | float, radius: float) -> Tensor:
    """Distance to the rectangle with half sides a and b and rounded corners."""
    qx, qy = x.abs() - (a - radius), y.abs() - (b - radius)
    outside = torch.sqrt(qx.clamp(min=0) ** 2 + qy.clamp(min=0) ** 2 + 1e-8)
    return outside + torch.maximum(qx, qy).clamp(max=0) - radius


def band(y: Tensor, top: Tensor, bottom: Tensor, slope: Tensor | float = 0.0) -> Tensor:
    """Distance to the strip between two curves y = top(x) and y = bottom(x) of about that slope."""
    return torch.maximum(top - y, y - bottom) / (1.0 + slope * slope) ** 0.5


def bump(x: Tensor, y: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """Gaussian spot, 1 at the origin."""
    return torch.exp(-((x / a) ** 2 + (y / b) ** 2).clamp(max=30.0))


def smoothstep(value: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Cubic ramp from 0 at `low` to 1 at `high` (low may be the larger one)."""
    t = ((value - low) / (high - low)).clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


@dataclass(eq=False)
class Canvas:
    """A picture under construction: image [B,3,H,W] in [0,1] and labels [B,H,W] uint8."""

    image: Tensor
    labels: Tensor
    pixel: Tensor

    def coverage(self, distance: Tensor, blur: float = 0.0) -> Tensor:
        """Share of each pixel inside the shape: a smoothstep over one pixel (plus blur)."""
        width = self.pixel + blur
        t = (0.5 - distance / width).clamp(0.0, 1.0)
        return t * t * (3.0 - 2.0 * t)

    def paint(self, cover: Tensor, colour: Tensor, label: int | None = None) -> None:
        """Lay a colour ([B,3,1,1] or [B,3,H,W]) over the picture where cover [B,H,W] is > 0."""
        self.image += cover.unsqueeze(1) * (colour - self.image)
        if label is not None:
            self.labels.masked_fill_(cover > 0.5, label)

    def mark(self, cover: Tensor, side: Tensor, left: int, right: int) -> None:
        """Label a pair: `left` where side < 0 (the viewer's left), `right` elsewhere."""
        inside = cover > 0.5
        self.labels.masked_fill_(inside & (side < 0), left)
        self.labels.masked_fill_(inside & (side > 0), right)

    def shade(self, factor: Tensor) -> None:
        """Multiply the picture by factor [B,H,W]."""
        self.image *= factor.unsqueeze(1)

    def fill(self, cover: Tensor, colour: Tensor, shade: Tensor, label: int | None = None) -> None:
        """Paint a colour [B,3,1,1] modulated by shade [B,H,W]."""
        self.paint(cover, colour * shade.unsqueeze(1), label)
