"""Draws portraits of nobody: a batched signed-distance renderer in torch.

`render` is deterministic in its spec, runs at any size that is a multiple of 16, on any device, and
returns the picture together with what a dataset would have to be annotated with: face-parsing labels
(CelebAMask-HQ ids; "left" is the viewer's left), five landmarks and a caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FluxGuardError
from .captions import caption
from .face_layers import (
    draw_beard,
    draw_brows,
    draw_ears,
    draw_eyes,
    draw_eyeshadow,
    draw_head,
    draw_marks,
    draw_mouth,
    draw_nose,
    head_distance,
    skin_colour,
)
from .portrait_geometry import Geometry, canonical_grid, geometry, image_landmarks
from .portrait_layers import (
    draw_back_hair,
    draw_background,
    draw_body,
    draw_earrings,
    draw_eyeglasses,
    draw_front_hair,
    draw_hat,
)
from .portrait_spec import PortraitSpec
from .shapes import Canvas

LABEL_NAMES: tuple[str, ...] = (
    "background",
    "skin",
    "l_brow",
    "r_brow",
    "l_eye",
    "r_eye",
    "eyeglasses",
    "l_ear",
    "r_ear",
    "earring",
    "nose",
    "mouth",
    "u_lip",
    "l_lip",
    "neck",
    "necklace",
    "cloth",
    "hair",
    "hat",
)


@dataclass(frozen=True, eq=False)
class Portrait:
    """A rendered spec: image [3,H,W] RGB in [0,1], labels [H,W] uint8, landmarks [5,2] pixels (x, y)."""

    image: Tensor
    labels: Tensor
    landmarks: Tensor
    caption: str
    spec: PortraitSpec


def _draw(canvas: Canvas, g: Geometry) -> None:
    g.head_d = head_distance(g, g.x0, g.y0)
    g.lit_skin = skin_colour(g)
    draw_background(canvas, g)
    draw_back_hair(canvas, g)
    draw_body(canvas, g)
    draw_ears(canvas, g)
    draw_head(canvas, g)
    draw_marks(canvas, g)
    draw_beard(canvas, g)
    draw_mouth(canvas, g)
    draw_nose(canvas, g)
    draw_eyeshadow(canvas, g)
    draw_eyes(canvas, g)
    draw_brows(canvas, g)
    draw_front_hair(canvas, g)
    draw_earrings(canvas, g)
    draw_eyeglasses(canvas, g)
    draw_hat(canvas, g)


@torch.no_grad()
def render_batch(
    specs: Sequence[PortraitSpec], size: int = 128, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Images [B,3,size,size] in [0,1], labels [B,size,size] uint8, landmarks [B,5,2] pixels."""
    if size < 16 or size % 16:
        raise FluxGuardError(f"A portrait's size must be a positive multiple of 16; got {size}.")
    if not specs:
        raise FluxGuardError("render_batch needs at least one spec; got none.")
    g = geometry(specs, device)
    canonical_grid(g, size)
    shape = (len(specs), size, size)
    canvas = Canvas(
        image=torch.zeros(len(specs), 3, size, size, device=device),
        labels=torch.zeros(shape, dtype=torch.uint8, device=device),
        pixel=2.0 / size / g.scale,
    )
    _draw(canvas, g)
    image = canvas.image * g.exposure.unsqueeze(1) * g.tint
    return image.clamp_(0.0, 1.0), canvas.labels, image_landmarks(g, size)


def render(spec: PortraitSpec, size: int = 128, device: torch.device | str = "cpu") -> Portrait:
    """One portrait."""
    images, labels, landmarks = render_batch([spec], size, device)
    return Portrait(images[0], labels[0], landmarks[0], caption(spec.attributes), spec)
