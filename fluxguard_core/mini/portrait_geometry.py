"""From a spec to the numbers that the drawing layers use: sizes, positions, colours, the posed grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from .portrait_spec import CHOICES, IDENTITY_PARAMETERS, Nuisance, PortraitSpec

Geometry = SimpleNamespace
"""Tensors [B,1,1] (colours [B,3,1,1]) by name; after `canonical_grid` also the grids [B,H,W]."""

HAIR = {
    "black": (0.09, 0.08, 0.09),
    "brown": (0.36, 0.21, 0.12),
    "blond": (0.88, 0.70, 0.38),
    "red": (0.72, 0.27, 0.10),
    "grey": (0.66, 0.67, 0.70),
}
LIPSTICK = {
    "none": (0.0, 0.0, 0.0),
    "red": (0.82, 0.05, 0.10),
    "pink": (0.97, 0.38, 0.62),
    "dark": (0.33, 0.04, 0.17),
}
EYESHADOW = {
    "none": (0.0, 0.0, 0.0),
    "blue": (0.16, 0.38, 0.85),
    "green": (0.12, 0.58, 0.36),
    "purple": (0.50, 0.18, 0.68),
}
HAT = {
    "none": (0.0, 0.0, 0.0),
    "red": (0.74, 0.12, 0.14),
    "blue": (0.14, 0.28, 0.62),
    "black": (0.13, 0.13, 0.15),
}
BACKGROUND = {
    "white": (0.94, 0.94, 0.93),
    "grey": (0.55, 0.56, 0.58),
    "blue": (0.38, 0.58, 0.84),
    "green": (0.42, 0.66, 0.48),
    "pink": (0.95, 0.70, 0.76),
    "yellow": (0.94, 0.82, 0.46),
}
CLOTHES = {
    "white": (0.92, 0.92, 0.90),
    "black": (0.14, 0.14, 0.17),
    "red": (0.70, 0.16, 0.18),
    "blue": (0.18, 0.32, 0.62),
    "green": (0.16, 0.44, 0.32),
}
SKIN_STOPS = (
    (0.99, 0.87, 0.79),
    (0.95, 0.77, 0.65),
    (0.84, 0.63, 0.48),
    (0.64, 0.44, 0.31),
    (0.46, 0.30, 0.21),
    (0.33, 0.21, 0.15),
)
IRIS_STOPS = (
    (0.24, 0.13, 0.07),
    (0.48, 0.28, 0.11),
    (0.45, 0.44, 0.16),
    (0.20, 0.52, 0.32),
    (0.20, 0.48, 0.76),
    (0.52, 0.64, 0.74),
)


def _palette(stops: tuple[tuple[float, ...], ...], position: Tensor) -> Tensor:
    """Piecewise linear colour: position [B,1,1] in [0,1] -> [B,3,1,1]."""
    table = torch.tensor(stops, device=position.device)
    at = (position.flatten() * (len(stops) - 1)).clamp(0, len(stops) - 1 - 1e-4)
    low = at.long()
    return torch.lerp(table[low], table[low + 1], (at - low).unsqueeze(1))[..., None, None]


def _colours(
    specs: Sequence[PortraitSpec],
    name: str,
    table: Mapping[str, tuple[float, ...]],
    device: torch.device | str,
) -> Tensor:
    rows = [table[getattr(s.attributes, name)] for s in specs]
    return torch.tensor(rows, device=device)[..., None, None]


def _flags(
    specs: Sequence[PortraitSpec], name: str, value: str, device: torch.device | str
) -> Tensor:
    rows = [float(getattr(s.attributes, name) == value) for s in specs]
    return torch.tensor(rows, device=device)[:, None, None]


def _lerp(low: float, high: float, t: Tensor) -> Tensor:
    return low + (high - low) * t


def _face_shape(g: Geometry, p: dict[str, Tensor]) -> None:
    """Positions are built from the brows down with gaps, so that every draw is a plausible face."""
    g.head_y = torch.zeros_like(p["jaw"]) - 0.03
    g.face_w = _lerp(0.52, 0.68, p["face_width"])
    g.jaw_power = _lerp(1.55, 3.1, p["jaw"])
    g.eye_y = g.head_y - 0.05
    g.eye_x = _lerp(0.285, 0.365, p["eye_spacing"]) + 0.25 * (g.face_w - 0.60)
    g.eye_a = _lerp(0.115, 0.165, p["eye_size"])
    g.eye_h = _lerp(0.050, 0.105, p["eye_openness"]) * _lerp(0.85, 1.15, p["eye_size"])
    g.eye_tilt = _lerp(-0.16, 0.26, p["eye_tilt"])
    g.brow_gap = _lerp(0.125, 0.225, p["brow_height"])
    g.brow_th = _lerp(0.014, 0.046, p["brow_thickness"])
    g.brow_angle = _lerp(-0.20, 0.32, p["brow_angle"])
    g.nose_y = g.eye_y + _lerp(0.23, 0.37, p["nose_length"])
    g.nose_w = _lerp(0.075, 0.165, p["nose_width"])
    g.nose_tip = p["nose_tip"]
    g.mouth_y = g.nose_y + _lerp(0.145, 0.215, p["mouth_height"])
    g.mouth_w = _lerp(0.170, 0.285, p["mouth_width"])
    g.lip = _lerp(0.70, 1.50, p["lip_fullness"])
    g.chin_y = g.mouth_y + _lerp(0.235, 0.37, p["chin"])
    g.head_top = 0.66
    g.ear_a = _lerp(0.055, 0.105, p["ear_size"])
    g.ear_b = _lerp(0.11, 0.20, p["ear_size"])
    g.hairline = g.head_y - _lerp(0.32, 0.56, p["hairline"])
    g.part = torch.where(p["mole_x"] > 0.5, 1.0, -1.0) * 0.18
    g.mole_x, g.mole_y = p["mole_x"], p["mole_y"]
    g.freckles = ((p["freckles"] - 0.45) / 0.55).clamp(min=0.0)
    g.age = p["age"]


def _colouring(
    g: Geometry, p: dict[str, Tensor], specs: Sequence[PortraitSpec], device: torch.device | str
) -> None:
    tone, warmth = p["skin_tone"], p["skin_warmth"].unsqueeze(1) - 0.5
    shift = torch.tensor((0.05, -0.01, -0.09), device=device)[None, :, None, None]
    g.skin = (_palette(SKIN_STOPS, tone) + warmth * shift).clamp(0.05, 1.0)
    g.tone = tone
    g.iris = _palette(IRIS_STOPS, p["iris_hue"])
    g.hair = _colours(specs, "hair_colour", HAIR, device)
    g.brow_colour = torch.lerp(g.hair * 0.62, g.skin * 0.32, 0.35)
    natural = g.skin * torch.tensor((0.93, 0.60, 0.60), device=device)[None, :, None, None]
    g.made_up = 1.0 - _flags(specs, "lipstick", "none", device)
    painted = _colours(specs, "lipstick", LIPSTICK, device)
    g.lips = torch.lerp(natural, painted, 0.93 * g.made_up.unsqueeze(1))
    g.shadow = 1.0 - _flags(specs, "eyeshadow", "none", device)
    g.shadow_colour = _colours(specs, "eyeshadow", EYESHADOW, device)
    g.hat = 1.0 - _flags(specs, "hat", "none", device)
    g.hat_colour = _colours(specs, "hat", HAT, device)
    g.background = _colours(specs, "background", BACKGROUND, device)
    g.clothes = _colours(specs, "clothes", CLOTHES, device)
    for name in ("smile", "eyeglasses", "beard", "earrings"):
        setattr(g, name, _flags(specs, name, "yes", device))
    for style in CHOICES["hair_style"]:
        setattr(g, style, _flags(specs, "hair_style", style, device))


def _posing(g: Geometry, specs: Sequence[PortraitSpec], device: torch.device | str) -> None:
    rows = [[getattr(s.nuisance, f.name) for f in fields(Nuisance)] for s in specs]
    values = torch.tensor(rows, device=device)
    n = {f.name: values[:, i, None, None] for i, f in enumerate(fields(Nuisance))}
    g.roll = 0.15 * n["roll"]
    g.yaw = 0.075 * n["yaw"]
    g.scale = 1.0 + 0.07 * n["scale"]
    g.shift_x, g.shift_y = 0.07 * n["shift_x"], 0.05 * n["shift_y"]
    g.light_x, g.light_y = 0.75 * n["light_x"], torch.full_like(n["light_x"], -0.35)
    g.light = 0.26 + 0.14 * n["light_strength"]
    g.exposure = 1.0 + 0.10 * n["exposure"]
    warm = torch.tensor((0.035, 0.0, -0.05), device=device)[None, :, None, None]
    g.tint = 1.0 + warm * n["warmth"].unsqueeze(1)
    g.gaze = 0.022 * n["gaze"]


def geometry(specs: Sequence[PortraitSpec], device: torch.device | str = "cpu") -> Geometry:
    """All drawing parameters of a batch of specs."""
    values = torch.tensor(np.array([s.identity for s in specs], np.float32), device=device)
    p = {name: values[:, i, None, None] for i, name in enumerate(IDENTITY_PARAMETERS)}
    g = Geometry()
    _face_shape(g, p)
    _colouring(g, p, specs, device)
    _posing(g, specs, device)
    return g


def _bulge(g: Geometry, x: Tensor, y: Tensor) -> Tensor:
    """How far a point of the face stands out of the head: it moves that much when the head turns."""
    return g.yaw * torch.exp(-((x / 0.62) ** 2 + ((y - 0.08) / 0.75) ** 2))


def canonical_grid(g: Geometry, size: int) -> None:
    """Add the pixel centres in frame units (fx, fy), head units (x0, y0) and face units (x, y)."""
    device = g.scale.device
    axis = (torch.arange(size, device=device) + 0.5) * (2.0 / size) - 1.0
    g.fx, g.fy = axis[None, None, :], axis[None, :, None]
    dx, dy = g.fx - g.shift_x, g.fy - g.shift_y
    cos, sin = torch.cos(g.roll) / g.scale, torch.sin(g.roll) / g.scale
    g.x0, g.y0 = cos * dx + sin * dy, cos * dy - sin * dx
    g.x, g.y = g.x0 - _bulge(g, g.x0, g.y0), g.y0
    g.xm = g.x.abs()
    g.side = torch.where(g.x < 0, -1.0, 1.0)


def _to_pixels(g: Geometry, x: Tensor, y: Tensor, size: int) -> Tensor:
    """Face units -> pixel coordinates [B,2]; the bulge is inverted by fixed-point iteration."""
    x0 = x
    for _ in range(8):
        x0 = x + _bulge(g, x0, y)
    cos, sin = torch.cos(g.roll) * g.scale, torch.sin(g.roll) * g.scale
    fx = cos * x0 - sin * y + g.shift_x
    fy = sin * x0 + cos * y + g.shift_y
    pixels = torch.stack([fx, fy], -1).reshape(-1, 2)
    return (pixels + 1.0) * (size / 2.0) - 0.5


def mouth_corner(g: Geometry) -> tuple[Tensor, Tensor]:
    """Half width of the mouth and height of its corners, with the smile."""
    half = g.mouth_w * (1.0 + 0.20 * g.smile)
    return half, g.mouth_y - 0.055 * g.smile


def image_landmarks(g: Geometry, size: int) -> Tensor:
    """Eye centres, nose tip, mouth corners as [B,5,2] pixels (integer = pixel centre)."""
    half, corner_y = mouth_corner(g)
    points = [
        (-g.eye_x, g.eye_y),
        (g.eye_x, g.eye_y),
        (torch.zeros_like(g.eye_x), g.nose_y - 0.02),
        (-half, corner_y),
        (half, corner_y),
    ]
    return torch.stack([_to_pixels(g, x, y, size) for x, y in points], 1)
