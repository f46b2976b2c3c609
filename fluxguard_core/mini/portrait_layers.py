"""The layers around the face: background, clothes and neck, hair, earrings, eyeglasses, hat."""

from __future__ import annotations

import torch
from torch import Tensor

from .face_layers import _grey
from .portrait_geometry import Geometry
from .shapes import Canvas, box, bump, ellipse, smoothstep


def draw_background(canvas: Canvas, g: Geometry) -> None:
    """A studio wall: a pool of light towards the key light, darker corners."""
    pool = bump(g.fx - 0.35 * g.light_x, g.fy + 0.25, 1.25, 1.25)
    shade = 0.80 + 0.24 * pool - 0.05 * g.fy
    canvas.image += g.background * shade.unsqueeze(1)


def draw_body(canvas: Canvas, g: Geometry) -> None:
    """Neck with the chin's shadow, shoulders with a collar."""
    neck_w = 0.62 * g.face_w + 0.02
    neck = torch.maximum(
        g.x0.abs() - neck_w - 0.10 * (g.y0 - g.chin_y).clamp(min=0) ** 2, g.chin_y - 0.35 - g.y0
    )
    drop = torch.exp(-((g.y0 - g.chin_y + 0.02) / 0.13).clamp(min=0.0))
    shade = 0.92 - 0.30 * drop
    canvas.paint(canvas.coverage(neck), g.lit_skin * shade.unsqueeze(1), 14)
    rise = g.x0.abs() - neck_w * 0.72
    top = (
        g.chin_y
        + 0.115
        + 0.55 * (rise - 0.2).clamp(min=0.0) ** 1.6
        - 0.16 * smoothstep(rise, -0.20, 0.26)
    )
    distance = top - g.y0
    cover = canvas.coverage(distance)
    folds = 1.0 + 0.06 * torch.sin(9.0 * g.x0 + 3.0 * g.y0) + 0.5 * g.light * g.light_x * g.x0
    canvas.fill(cover, g.clothes, folds, 16)
    collar = torch.exp(-(((distance + 0.035) / 0.013) ** 2).clamp(max=20.0))
    canvas.paint(0.30 * collar * cover, g.clothes * 0.45)


def _strands(g: Geometry) -> Tensor:
    """Brightness of hair: fine strands and a soft band of gloss."""
    flow = g.x0 + 0.10 * torch.sin(4.0 * g.y0 + 5.0 * g.part)
    fine = torch.sin(38.0 * flow) * 0.055 + torch.sin(17.0 * flow + 2.0 * g.y0) * 0.07
    radius = torch.sqrt(g.x0**2 + (g.y0 - g.head_y) ** 2 + 1e-6)
    gloss = torch.exp(-(((radius - 0.60) / 0.085) ** 2).clamp(max=20.0)) * smoothstep(
        g.y0, 0.1, -0.4
    )
    side = 1.0 + 0.9 * g.light * g.light_x * g.x0
    return (0.88 + fine) * side + 0.30 * gloss


def _curls(g: Geometry) -> Tensor:
    """Scalloped offset of a curly outline."""
    return 0.030 * torch.sin(19.0 * g.x0 + 1.5) * torch.sin(19.0 * g.y0) + 0.016 * torch.sin(
        31.0 * (g.x0 + g.y0)
    )


def _hat_line(g: Geometry) -> Tensor:
    """Height of a hat's brim over x: hair above it is under the hat."""
    return g.hairline + 0.075 - 0.10 * (g.x0 / 0.8) ** 2


def _under_hat(g: Geometry) -> Tensor:
    return 1.0 - g.hat * smoothstep(g.y0 - _hat_line(g), 0.02, -0.04)


def draw_back_hair(canvas: Canvas, g: Geometry) -> None:
    """What hangs behind the face: by style down to the jaw, the shoulders, or a round mass."""
    x, y = g.x0.abs(), g.y0
    crown = ellipse(g.x0, y - g.head_y - 0.02, g.face_w + 0.13, 0.80)
    jaw = g.chin_y - 0.06
    wide = g.face_w + 0.12 + 0.05 * smoothstep(y, -0.2, 0.5)
    bob = torch.minimum(crown, torch.maximum(torch.maximum(x - wide, y - jaw), g.head_y - y))
    wave = 0.02 * torch.sin(11.0 * y)
    long_w = g.face_w + 0.13 + 0.12 * smoothstep(y, 0.0, 1.0) + wave
    long = torch.minimum(crown, torch.maximum(x - long_w, g.head_y - y))
    curly = ellipse(g.x0, y - g.head_y + 0.06, g.face_w + 0.24, 0.84) + _curls(g)
    far = torch.ones_like(crown)
    distance = torch.where(g.bob > 0, bob, torch.where(g.long > 0, long, far))
    distance = torch.where(g.curly > 0, curly, distance)
    cover = canvas.coverage(distance) * _under_hat(g)
    canvas.fill(cover, g.hair, _strands(g) * 0.72 + g.curly * 2.2 * _curls(g), 17)


def _hairline(g: Geometry) -> Tensor:
    """Lower edge of the hair over the forehead [B,H,W] for each style."""
    x, side = g.x0, g.x0.abs() / g.face_w
    short = (
        g.hairline
        + 0.30 * side.clamp(max=1.0) ** 3
        - 0.05 * torch.exp(-(((x - g.part) / 0.10) ** 2))
    )
    fringe = g.hairline - 0.05 + 0.24 * ((x - g.part) / g.face_w) ** 2 + 0.55 * side**6
    curly = g.hairline + 0.02 + 0.42 * side**4 + 1.3 * _curls(g)
    styled = torch.where(g.short > 0, short, fringe)
    return torch.where(g.curly > 0, curly, styled)


def draw_front_hair(canvas: Canvas, g: Geometry) -> None:
    """Crown, fringe and the sides that fall in front of the ears."""
    grow = 0.055 * g.short + 0.085 * (g.bob + g.long) + 0.13 * g.curly
    skull = g.head_d - grow + _curls(g) * g.curly
    length = g.eye_y + (g.chin_y - g.eye_y - 0.09) * g.bob + 2.0 * g.long
    length = length + 0.16 * g.curly
    cap = torch.maximum(skull, g.y0 - _hairline(g))
    inner = g.face_w * (0.985 - 0.075 * (g.bob + g.long)) - 0.03 * torch.sin(4.0 * g.y0 + g.part)
    tip = smoothstep(length - g.y0, 0.0, 0.16)
    width = (0.13 * (g.bob + g.long) + 0.14 * g.curly) * (0.45 + 0.55 * tip)
    locks = torch.maximum(inner - g.x0.abs(), g.x0.abs() - g.face_w - width)
    locks = torch.maximum(torch.maximum(locks, g.y0 - length), g.hairline + 0.05 - g.y0)
    crown = ellipse(g.x0, g.y0 - g.head_y, g.face_w + 0.13, g.head_top + 0.13)
    locks = torch.maximum(locks, torch.where(g.y0 < g.head_y, crown, -1.0)) + g.short
    distance = torch.minimum(cap, locks)
    present = (1.0 - g.bald) * _under_hat(g)
    shadow = canvas.coverage(distance - 0.03, 0.07) * present * canvas.coverage(g.head_d)
    canvas.shade(1.0 - 0.22 * shadow)
    cover = canvas.coverage(distance) * present
    canvas.fill(cover, g.hair, _strands(g) + g.curly * 2.6 * _curls(g), 17)


def draw_earrings(canvas: Canvas, g: Geometry) -> None:
    """A golden hoop below each ear."""
    ex = g.x0.abs() - g.face_w - 0.045
    ey = g.y0 - (g.eye_y + 0.13 + g.ear_b)
    hoop = ellipse(ex, ey, 0.052, 0.066).abs() - 0.017
    gold = torch.tensor((0.98, 0.78, 0.24), device=ex.device)[None, :, None, None]
    cover = canvas.coverage(hoop) * g.earrings
    canvas.fill(cover, gold, 0.92 - 2.2 * (ey + ex * g.light_x))
    canvas.labels.masked_fill_(cover > 0.5, 9)


def draw_eyeglasses(canvas: Canvas, g: Geometry) -> None:
    """Dark rounded frames; the label covers frame and lens as in CelebAMask-HQ."""
    a, b = 0.165 + 0.35 * (g.eye_a - 0.115), 0.135
    x, y = g.xm - g.eye_x - 0.006, g.y - g.eye_y - 0.012
    lens = box(x, y, a, b, 0.075)
    on = g.eyeglasses
    frame = canvas.coverage(lens.abs() - 0.015)
    gap = g.xm - (g.eye_x - a)
    bridge = canvas.coverage(torch.maximum((y + 0.045 + 0.35 * g.x**2).abs() - 0.013, gap))
    temple = torch.maximum((y + 0.05).abs() - 0.014, (g.eye_x + a) - g.xm)
    temple = canvas.coverage(torch.maximum(temple, g.head_d))
    inside = canvas.coverage(lens)
    streak = smoothstep(((x + y) * g.side / 0.09 - 0.4).abs(), 0.5, 0.1)
    canvas.paint(on * inside * (0.07 + 0.10 * streak), _grey(1.0, g.skin))
    cover = torch.maximum(torch.maximum(frame, bridge), temple) * on
    canvas.paint(0.96 * cover, _grey(0.07, g.skin))
    canvas.labels.masked_fill_(torch.maximum(cover, inside * on) > 0.5, 6)


def draw_hat(canvas: Canvas, g: Geometry) -> None:
    """A felt hat: dome, ribbon, brim, and the brim's shadow on the forehead."""
    line = _hat_line(g)
    half = g.face_w + 0.10
    dome = torch.maximum(
        box(g.x0, g.y0 - line + 0.30, half - 0.06 * (line - g.y0), 0.42, 0.24), g.y0 - line
    )
    shadow = smoothstep(g.y0 - line, 0.16, 0.02) * canvas.coverage(g.head_d)
    canvas.shade(1.0 - 0.30 * shadow * g.hat)
    light = (
        1.0
        + 1.2 * g.light * g.light_x * g.x0
        + 0.16 * bump(g.x0 - 0.3 * g.light_x, g.y0 - line + 0.35, 0.3, 0.2)
    )
    canvas.fill(canvas.coverage(dome) * g.hat, g.hat_colour, light, 18)
    ribbon = canvas.coverage(torch.maximum(dome, line - 0.13 - g.y0))
    canvas.paint(0.75 * ribbon * g.hat, g.hat_colour * 0.45)
    brim = ellipse(g.x0, g.y0 - line - 0.005 - 0.12 * g.x0**2, half + 0.17, 0.065)
    canvas.fill(canvas.coverage(brim) * g.hat, g.hat_colour, light * 0.92, 18)
