"""The layers of the face itself: skin, marks, beard, mouth, nose, eyes, brows."""

from __future__ import annotations

import torch
from torch import Tensor

from .portrait_geometry import Geometry, mouth_corner
from .shapes import Canvas, band, bump, ellipse, smoothstep


def _grey(value: float, like: Tensor) -> Tensor:
    return torch.full_like(like[:, :, :1, :1], value)


def head_distance(g: Geometry, x: Tensor, y: Tensor) -> Tensor:
    """Superellipse with its own height and power above and below the cheekbones."""
    above = y < g.head_y
    power = torch.where(above, 2.35, g.jaw_power)
    height = torch.where(above, g.head_top, g.chin_y - g.head_y)
    u = (x.abs() / g.face_w).clamp(min=1e-4)
    v = ((y - g.head_y).abs() / height).clamp(min=1e-4)
    log_u, log_v = torch.log(u), torch.log(v)
    up, vp = torch.exp(power * log_u), torch.exp(power * log_v)
    slope = torch.sqrt((power * up / u / g.face_w) ** 2 + (power * vp / v / height) ** 2)
    return (up + vp - 1.0) / slope.clamp(min=0.6)


def skin_colour(g: Geometry) -> Tensor:
    """Lit skin [B,3,H,W]: an ellipsoid under a soft key light; shadows turn warm."""
    nx = g.x0 / (g.face_w * 1.04)
    ny = (g.y0 - g.head_y) / (g.chin_y - g.head_y).clamp(min=0.62)
    nz = torch.sqrt((1.0 - nx * nx - 0.6 * ny * ny).clamp(min=0.0) + 0.02)
    shade = 0.79 + 0.22 * nz + g.light * (nx * g.light_x + ny * g.light_y * 0.6)
    warm = torch.tensor((0.82, 1.0, 1.12), device=shade.device)[None, :, None, None]
    return g.skin * (1.0 + (shade.unsqueeze(1) - 1.0) * warm)


def draw_ears(canvas: Canvas, g: Geometry) -> None:
    """Ears lie behind the head's outline at the height of eyes and nose."""
    ex = g.x0.abs() - (g.face_w + 0.35 * g.ear_a)
    ey = g.y0 - (g.eye_y + 0.09)
    tilted = ex + 0.22 * ey
    distance = ellipse(tilted, ey, g.ear_a, g.ear_b)
    cover = canvas.coverage(distance)
    canvas.paint(cover, g.lit_skin)
    canvas.mark(cover, g.side, 7, 8)
    inner = canvas.coverage(ellipse(tilted - 0.006, ey, g.ear_a * 0.55, g.ear_b * 0.62), 0.05)
    canvas.paint(0.45 * inner, g.lit_skin * 0.66)


def draw_head(canvas: Canvas, g: Geometry) -> None:
    """Skin with cheeks, eye sockets, highlights and the lines of age."""
    cover = canvas.coverage(g.head_d)
    colour = g.lit_skin
    cheek = bump(g.xm - 0.58 * g.face_w, g.y - g.nose_y - 0.03, 0.17, 0.12)
    socket = bump(g.xm - 0.86 * g.eye_x, g.y - g.eye_y + 0.03, 0.19, 0.13)
    glow = bump(g.x - 0.18 * g.light_x, g.y - g.head_y + 0.30, 0.27, 0.17)
    bone = bump(g.xm - 0.72 * g.face_w, g.y - g.eye_y - 0.15, 0.11, 0.06)
    edge = torch.exp((g.head_d / 0.07).clamp(max=0.0))
    shade = 1.0 - 0.11 * socket + 0.07 * glow + 0.06 * bone - 0.13 * edge
    blush = torch.tensor((0.06, -0.05, -0.04), device=colour.device)[None, :, None, None]
    colour = colour * (shade.unsqueeze(1) + cheek.unsqueeze(1) * blush)
    canvas.paint(cover, colour, 1)
    chin = bump(g.x, g.y - g.chin_y + 0.10, 0.11, 0.06)
    canvas.shade(1.0 + 0.05 * chin * cover)
    _age_lines(canvas, g, cover)


def _age_lines(canvas: Canvas, g: Geometry, cover: Tensor) -> None:
    """Nasolabial folds (also of a smile), forehead lines, bags under the eyes."""
    half, _ = mouth_corner(g)
    t = ((g.y - g.nose_y + 0.02) / (g.mouth_y - g.nose_y + 0.06)).clamp(0.0, 1.2)
    fold_x = g.nose_w * 1.25 + t * (half * 1.12 + 0.03 - g.nose_w * 1.2)
    inside = smoothstep(t, 0.0, 0.25) * smoothstep(t, 1.18, 0.9)
    fold = bump(g.xm - fold_x, torch.zeros_like(g.xm), 0.024, 1.0) * inside
    lines = torch.zeros_like(fold)
    for offset in (0.06, 0.14, 0.22):
        wave = g.y - (g.eye_y - g.brow_gap - 0.14 - offset + 0.10 * g.x * g.x)
        lines = lines + torch.exp(-((wave / 0.013) ** 2).clamp(max=20.0))
    lines = lines * smoothstep(g.xm, 0.42, 0.22)
    bag = band(g.y, g.eye_y + 0.085, g.eye_y + 0.115)
    bags = torch.exp(-((bag.clamp(min=0.0) / 0.02) ** 2)) * smoothstep(
        (g.xm - g.eye_x).abs(), 0.13, 0.06
    )
    old = ((g.age - 0.25) / 0.75).clamp(min=0.0)
    strength = fold * (0.16 * old + 0.11 * g.smile) + old * (0.13 * lines + 0.12 * bags)
    canvas.shade(1.0 - strength * cover)


def draw_marks(canvas: Canvas, g: Geometry) -> None:
    """Freckles over cheeks and nose; two moles whose places are part of the identity."""
    pattern = torch.sin(43.0 * g.x + 3.0 * torch.sin(9.0 * g.y)) * torch.sin(
        39.0 * g.y + 2.0 * torch.sin(11.0 * g.x)
    )
    area = bump(g.xm - 0.26, g.y - g.nose_y + 0.02, 0.25, 0.13)
    spots = smoothstep(pattern, 0.35, 0.85) * smoothstep(area, 0.25, 0.6)
    canvas.paint(0.55 * g.freckles * spots, g.skin * 0.55)
    places = (
        (g.mole_x * 1.5 - 0.75, g.nose_y - 0.10 + 0.42 * g.mole_y, 0.027),
        (0.75 - 1.3 * g.mole_y, g.eye_y + 0.16 + 0.20 * g.mole_x, 0.021),
    )
    for across, height, radius in places:
        d = ellipse(g.x - across * g.face_w, g.y - height, radius, radius)
        canvas.paint(0.85 * canvas.coverage(d) * (g.head_d < -0.03), g.skin * 0.30)


def draw_beard(canvas: Canvas, g: Geometry) -> None:
    """Full beard with moustache: the lower face below a curve that climbs to the ears."""
    half, _ = mouth_corner(g)
    climb = (g.xm / g.face_w).clamp(max=1.2)
    top = g.mouth_y + 0.03 - 0.44 * climb**3
    jaw = smoothstep(g.y - top, -0.02, 0.07) * canvas.coverage(g.head_d - 0.035, 0.03)
    lip_y = g.mouth_y - 0.062 - 0.10 * g.smile * (g.xm / half) ** 2
    moustache = torch.exp(-(((g.y - lip_y) / 0.042) ** 2).clamp(max=20.0))
    moustache = moustache * smoothstep(g.xm, half * 1.25, half * 0.85)
    strands = torch.sin(55.0 * g.x + 5.0 * torch.sin(6.0 * g.y)) * torch.sin(21.0 * g.y + 4.0 * g.x)
    cover = torch.maximum(jaw, moustache) * g.beard
    colour = torch.lerp(g.hair * 0.78, g.skin * 0.5, 0.18)
    shade = 1.0 + 0.08 * strands + g.light * 0.7 * g.light_x * g.x
    canvas.paint(0.93 * cover, colour * shade.unsqueeze(1))
    canvas.labels.masked_fill_((cover > 0.5) & (canvas.labels != 1), 1)


def draw_mouth(canvas: Canvas, g: Geometry) -> None:
    """Two lips around a middle line; a smile lifts the corners and shows the teeth."""
    half, corner_y = mouth_corner(g)
    s = (g.x / half).clamp(-1.3, 1.3)
    arc = (1.0 - s * s).clamp(min=0.0)
    middle = g.mouth_y + (corner_y - g.mouth_y) * s * s
    opening = 0.072 * g.smile * arc
    cupid = 1.0 - 0.38 * torch.exp(-((g.x / 0.035) ** 2).clamp(max=20.0))
    top = middle - opening * 0.25 - 0.058 * g.lip * arc**0.75 * cupid
    bottom = middle + opening + 0.072 * g.lip * arc**0.7
    upper_in, lower_in = middle - opening * 0.2, middle + opening * 0.9
    below = bump(g.x, g.y - bottom - 0.035, half * 0.62, 0.03)
    canvas.shade(1.0 - 0.15 * below)
    slope = 1.4 * s.abs()
    inner = canvas.coverage(band(g.y, upper_in, lower_in)) * smoothstep(opening, 0.004, 0.02)
    depth = ((g.y - upper_in) / (lower_in - upper_in).clamp(min=0.01)).clamp(0.0, 1.0)
    outside = g.xm - half
    upper = torch.maximum(band(g.y, top, middle - opening * 0.2, slope), outside)
    canvas.fill(canvas.coverage(upper), g.lips, 0.86 + 0.06 * depth, 12)
    roundness = ((g.y - lower_in) / (bottom - lower_in).clamp(min=0.02)).clamp(0.0, 1.0)
    lower = torch.maximum(band(g.y, lower_in, bottom, slope), outside)
    canvas.fill(canvas.coverage(lower), g.lips, 1.10 - 0.22 * roundness, 13)
    teeth = smoothstep(depth, 0.78, 0.62) * smoothstep(s.abs(), 0.96, 0.72)
    tone = torch.lerp(_grey(0.18, g.skin), _grey(0.95, g.skin), teeth.unsqueeze(1))
    canvas.paint(inner, tone * (1.0 - 0.16 * s.abs()).unsqueeze(1), 11)
    gap = torch.exp(-(((g.y - middle) / 0.011) ** 2).clamp(max=20.0)) * (arc > 0) * (1 - g.smile)
    canvas.paint(0.75 * gap * smoothstep(arc, 0.0, 0.12), g.lips * 0.38)
    corner = bump(g.xm - half, g.y - corner_y, 0.025, 0.02)
    canvas.shade(1.0 - 0.35 * corner)
    gloss = bump(g.x - 0.10 * g.light_x, g.y - lower_in - 0.030 * g.lip, half * 0.34, 0.013)
    canvas.paint(gloss * (0.16 + 0.34 * g.made_up), _grey(1.0, g.skin))


def draw_nose(canvas: Canvas, g: Geometry) -> None:
    """Bridge and tip by shading, wings and nostrils by small dark shapes."""
    t = ((g.y - g.eye_y + 0.03) / (g.nose_y - g.eye_y + 0.03)).clamp(0.0, 1.0)
    half = 0.042 + (g.nose_w - 0.042) * t**2.2
    fade = smoothstep(t, 0.02, 0.35) * smoothstep(g.y - g.nose_y, 0.05, -0.03)
    flank = torch.exp(-(((g.xm - half * 1.02) / 0.033) ** 2).clamp(max=20.0)) * fade
    lit = 0.5 - 0.5 * g.side * g.light_x.sign() * g.light_x.abs().sqrt()
    canvas.shade(1.0 - flank * (0.07 + 0.19 * lit))
    ridge = torch.exp(-((g.x / 0.026) ** 2).clamp(max=20.0)) * fade * smoothstep(t, 0.98, 0.6)
    tip_a = 0.045 + 0.05 * g.nose_tip
    tip = bump(g.x - 0.03 * g.light_x, g.y - g.nose_y + 0.055, tip_a, tip_a * 0.8)
    canvas.paint(0.15 * ridge + 0.30 * tip, torch.lerp(g.skin, _grey(1.0, g.skin), 0.6))
    under = bump(g.x, g.y - g.nose_y - 0.035, g.nose_w * 1.05, 0.028)
    canvas.shade(1.0 - 0.25 * under)
    wing = ellipse(g.xm - g.nose_w * 0.80, g.y - g.nose_y + 0.012, g.nose_w * 0.36, 0.048)
    rim = torch.exp(-((wing / 0.012) ** 2).clamp(max=20.0)) * smoothstep(
        g.xm - g.nose_w * 0.80, -0.01, 0.02
    )
    canvas.shade(1.0 - 0.30 * rim)
    nostril = ellipse(g.xm - g.nose_w * 0.47, g.y - g.nose_y - 0.012, g.nose_w * 0.25, 0.019)
    canvas.paint(0.80 * canvas.coverage(nostril, 0.01), g.skin * 0.26)
    lower = g.nose_y + 0.035 - 0.03 * (g.xm / g.nose_w) ** 2
    region = torch.maximum(band(g.y, g.eye_y - 0.02, lower), g.xm - half * 1.12)
    canvas.labels.masked_fill_((region < 0) & (canvas.labels == 1), 10)


def draw_eyeshadow(canvas: Canvas, g: Geometry) -> None:
    """Colour between lid and brow, strongest at the lid, swept outwards."""
    u = g.xm - g.eye_x - 0.012
    v = g.y - g.eye_y + g.eye_tilt * u
    a = g.eye_a * 1.18
    lid = -g.eye_h * (1.0 - (u / a) ** 2)
    reach = (0.10 + 0.05 * u / a) * smoothstep(u.abs(), 1.25, 0.8)
    above = smoothstep(lid - v, -0.02, 0.005) * smoothstep(lid - v, 0.135, 0.03)
    cover = above * smoothstep((u / a).abs(), 1.12, 0.75) * (reach > 0)
    canvas.paint(0.88 * cover * g.shadow, g.shadow_colour)


def _eye_curves(g: Geometry) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    u = g.xm - g.eye_x
    v = g.y - g.eye_y + g.eye_tilt * u
    s = u / g.eye_a
    arc = 1.0 - s * s
    upper = -g.eye_h * arc * (1.0 + 0.12 * s)
    lower = 0.72 * g.eye_h * arc
    return v, s, upper, lower


def draw_eyes(canvas: Canvas, g: Geometry) -> None:
    """White, iris with rim and glow, pupil, catchlight, lid line with lashes, crease."""
    v, s, upper, lower = _eye_curves(g)
    slope = 2.0 * g.eye_h / g.eye_a * s.abs()
    opening = band(v, upper, lower, slope)
    eye = canvas.coverage(opening)
    crease = v - upper * 1.28 + 0.030
    line = torch.exp(-((crease / 0.013) ** 2).clamp(max=20.0)) * smoothstep(s.abs(), 1.12, 0.7)
    canvas.shade(1.0 - 0.26 * line)
    shade = 0.97 - 0.26 * smoothstep(v - upper, 0.055, 0.0) - 0.13 * s * s
    canvas.fill(eye, _grey(0.97, g.skin), shade)
    canvas.mark(eye, g.side, 4, 5)
    ix, iy = g.x - g.side * g.eye_x - g.gaze, g.y - g.eye_y + 0.10 * g.eye_h
    radius = 0.054 + 0.22 * (g.eye_a - 0.115) + 0.10 * (g.eye_h - 0.05)
    r = torch.sqrt(ix * ix + iy * iy + 1e-8)
    glow = 0.80 + 0.45 * (iy / radius).clamp(-1, 1) - 0.50 * smoothstep(r / radius, 0.72, 1.0)
    canvas.fill(eye * canvas.coverage(r - radius), g.iris, glow)
    canvas.paint(eye * canvas.coverage(r - 0.43 * radius), _grey(0.03, g.skin))
    lid = smoothstep(v - upper, 0.035, 0.0) * eye
    canvas.shade(1.0 - 0.35 * lid)
    cx, cy = ix - 0.30 * radius * torch.sign(g.light_x + 1e-6), iy + 0.34 * radius
    catch = torch.sqrt(cx * cx + cy * cy + 1e-8)
    canvas.paint(eye * canvas.coverage(catch - 0.26 * radius), _grey(1.0, g.skin))
    wing = smoothstep(s, 1.22, 0.95) * smoothstep(s, -1.06, -0.8)
    lash = torch.where(_between_corners(s), upper, -0.09 * (s - 1.0).clamp(min=0.0))
    thick = 0.011 + 0.007 * (s + 1.0).clamp(0, 2)
    stroke = canvas.coverage(((v - lash).abs() - thick) / (1.0 + slope * slope) ** 0.5) * wing
    canvas.paint(0.9 * stroke, _grey(0.07, g.skin))
    under = torch.exp(-(((v - lower - 0.004) / 0.009) ** 2).clamp(max=20.0)) * (s.abs() < 0.97)
    canvas.paint(0.34 * under, g.skin * 0.45)


def _between_corners(s: Tensor) -> Tensor:
    """Where the lid curve is defined."""
    return s.abs() < 1.0


def draw_brows(canvas: Canvas, g: Geometry) -> None:
    """A tapered arc above each eye."""
    a = g.eye_a * 1.22
    u = g.xm - g.eye_x - 0.01
    v = g.y - (g.eye_y - g.eye_h * 0.6 - g.brow_gap) + g.brow_angle * u
    s = (u / a).clamp(-1.2, 1.2)
    middle = -0.045 * (1.0 - s * s) + 0.055 * (s - 0.35).clamp(min=0.0) ** 2
    thick = g.brow_th * (1.0 - 0.55 * ((s + 1.0) / 2.0).clamp(0, 1) ** 1.5)
    ends = torch.maximum(-(s + 1.0), s - 1.0) * a
    distance = torch.maximum((v - middle).abs() - thick, ends)
    cover = canvas.coverage(distance, 0.008)
    hairs = 1.0 + 0.14 * torch.sin(95.0 * u - 45.0 * v)
    canvas.fill(0.90 * cover, g.brow_colour, hairs)
    canvas.mark(cover, g.side, 2, 3)
