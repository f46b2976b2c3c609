"""Differentiable face alignment to the ArcFace template, with or without antialiasing.

A plain bilinear crop of a large picture reads a lattice of pixels and sends no gradient to the
others: a perturbation made through it lives on that lattice and a small resize undoes part of it.
The antialiased default reads every source pixel under the crop.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FluxGuardError
from ..resampling import bilinear, shrink
from .crops import Crop, as_crop, box_of


def similarity_transform(source: Tensor, target: Tensor) -> Tensor:
    """Least-squares similarity (rotation, uniform scale, shift) from source to target points.

    Points are [B,N,2]; returns [B,2,3]. Equal to Umeyama's estimate (TPAMI 1991, eq. 40-42): in
    the plane its rotation has the closed form used here, which unlike an SVD has gradients
    everywhere. Raises FluxGuardError when all source points coincide.
    """
    source_mean, target_mean = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
    p, q = source - source_mean, target - target_mean
    spread = p.square().sum((1, 2))
    if bool((spread <= 1e-12).any()):
        raise FluxGuardError(
            "The face landmarks coincide in one point, so no face can be cut out there; expected "
            "five different points (eyes, nose, mouth corners).",
            "Check the detector's output.",
        )
    a = (p * q).sum((1, 2)) / spread
    b = (p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]).sum(1) / spread
    linear = torch.stack((torch.stack((a, -b), -1), torch.stack((b, a), -1)), 1)
    shift = target_mean - source_mean @ linear.transpose(1, 2)
    return torch.cat((linear, shift.transpose(1, 2)), 2)


def invert(matrix: Tensor) -> Tensor:
    """Inverse of similarity transforms [B,2,3]."""
    linear, shift = matrix[..., :2], matrix[..., 2:]
    scale2 = linear[..., 0, 0].square() + linear[..., 1, 0].square()
    back = linear.transpose(1, 2) / scale2[:, None, None]
    return torch.cat((back, -back @ shift), 2)


def _sample(image: Tensor, back: Tensor, positions: Tensor) -> Tensor:
    """Bilinear samples at back(u, v) for u, v in `positions` [L], zero outside: [B,C,L,L]."""
    height, width = image.shape[-2:]
    v, u = torch.meshgrid(positions, positions, indexing="ij")
    points = torch.stack((u, v, torch.ones_like(u)), -1).reshape(1, -1, 3)
    xy = points @ back.transpose(1, 2)
    half = xy.new_tensor([width / 2.0, height / 2.0])
    grid = ((xy + 0.5) / half - 1.0).reshape(-1, len(positions), len(positions), 2)
    return bilinear(image, grid)


def _tent(size: int, positions: Tensor, half_width: Tensor) -> Tensor:
    """Rows of tent weights [B,size,L] around each target pixel, each row summing to one."""
    distance = (positions[None, :] - torch.arange(size).to(positions)[:, None]).abs()
    weights = (1 - distance[None] / half_width[:, None, None]).clamp_min(0)
    return weights / weights.sum(-1, keepdim=True)


def resample(image: Tensor, back: Tensor, size: int, *, antialias: bool = True) -> Tensor:
    """Square views [B,C,size,size] of [B,C,H,W], by similarities [B,2,3] from view to picture.

    Zero outside the picture. Antialiased, bilinear reading and a tent together have the variance
    of an antialiased resize: a tent of half-width r has variance r²/6 and reading spends 1/6
    square source pixel, so r source pixels per target pixel leave a tent of sqrt(r² - 1).
    """
    if not antialias:
        return _sample(image, back, torch.arange(size).to(back))
    ratio = (back[:, 0, 0].square() + back[:, 1, 0].square()).sqrt().detach()
    half_width = ((ratio.square() - 1).clamp_min(0).sqrt() / ratio).clamp_min(1e-3)
    steps = max(1, math.ceil(float(ratio.max()) - 1e-4))
    positions = torch.arange(-steps, size * steps + 1).to(back) / steps
    samples = _sample(image, back, positions)
    weights = _tent(size, positions, half_width)[:, None]
    return weights @ samples @ weights.transpose(2, 3)


def align(image: Tensor, landmarks: Tensor, size: int | Crop, *, antialias: bool = True) -> Tensor:
    """Cut the face out: on the ArcFace template for a bare side, else as the crop says.

    image [B,3,H,W] in [0,1]; landmarks [B,5,2] or [1,5,2] in pixels (x, y), integers at pixel
    centres; returns [B,3,size,size], zero where the crop leaves the picture. With antialias=False
    equal to insightface's `norm_crop` (plain bilinear) within one grey level; with True every
    source pixel under the crop contributes and receives gradient. Differentiable in the picture
    and in the landmarks.
    """
    crop = as_crop(size)
    if landmarks.ndim != 3 or tuple(landmarks.shape[1:]) != (5, 2):
        raise FluxGuardError(
            f"Alignment expects five landmarks [B, 5, 2], got {list(landmarks.shape)}."
        )
    if crop.layout == "whole":
        return squashed(image, crop.size, antialias=antialias)
    pixels = image if image.dtype == torch.float64 else image.float()
    points = landmarks.to(pixels).expand(pixels.shape[0], 5, 2)
    return resample(pixels, _back(points, crop), crop.size, antialias=antialias).to(image.dtype)


def _back(points: Tensor, crop: Crop) -> Tensor:
    """Similarities [B,2,3] from the crop's pixels to the picture's."""
    if crop.layout == "box":
        return _square(points, crop)
    target = crop.template().to(points)[None].expand_as(points)
    return invert(similarity_transform(points, target))


def _square(points: Tensor, crop: Crop) -> Tensor:
    """The upright square around the face's box, without rotation."""
    left, top, right, bottom = box_of(points).unbind(-1)
    side = torch.maximum(right - left, bottom - top) * (1 + 2 * crop.margin)
    scale = side / crop.size
    linear = torch.eye(2).to(points) * scale[:, None, None]
    centre = torch.stack((left + right, top + bottom), -1) / 2
    shift = centre - 0.5 * side[:, None] + 0.5 * scale[:, None] - 0.5
    return torch.cat((linear, shift[..., None]), 2)


def gradient_coverage(
    shape: tuple[int, int], landmarks: Tensor, size: int, *, antialias: bool = True
) -> float:
    """Share of a picture's pixels under the crop that an embedding of the crop can reach.

    shape: height and width of the picture; landmarks [5,2]. What a crop does not read receives no
    gradient, so a perturbation made through it leaves those pixels as they were.
    """
    with torch.inference_mode(False), torch.enable_grad():
        image = torch.zeros(1, 1, *shape, requires_grad=True)
        points = landmarks.detach().float().cpu().clone()[None]
        align(image, points, size, antialias=antialias).sum().backward()
    assert image.grad is not None
    matrix = similarity_transform(points, Crop(size).template()[None])[0]
    y, x = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    position = torch.stack((x, y), -1).float() @ matrix[:, :2].T + matrix[:, 2]
    inside = ((position > 0) & (position < size - 1)).all(-1)
    return float((image.grad[0, 0] > 0)[inside].float().mean())


def whole_frame(image: Tensor, size: int | Crop) -> Tensor:
    """The published code's view of a picture [B,3,H,W]: all of it squashed to [B,3,size,size].

    Bilinear, align_corners False, no antialias, no detection (Flux-Guard's released code; the
    same in AMT-GAN, DiffAM, EFPP).
    """
    return squashed(image, as_crop(size).size, antialias=False)


def squashed(image: Tensor, side: int, *, antialias: bool) -> Tensor:
    """All of a picture [B,3,H,W] at [B,3,side,side], whatever its shape."""
    if antialias:
        return shrink(image, (side, side))
    return F.interpolate(image, (side, side), mode="bilinear", align_corners=False)
