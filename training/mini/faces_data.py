"""Training pictures for the miniature's face networks: portraits, degradations, warps, negatives.

All functions take a `torch.Generator`, so a run is determined by its seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fluxguard_core.mini.portrait_spec import identity

from .cache import PortraitCache

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, eq=False)
class Portraits:
    """A batch: images [B,3,H,W] in [0,1], labels [B,H,W] long, landmarks [B,5,2] pixels,
    attributes [B,A] indices into portrait_spec.CHOICES, people [B] identity numbers."""

    images: Tensor
    labels: Tensor
    landmarks: Tensor
    attributes: Tensor
    people: Tensor

    def part(self, rows: slice) -> Portraits:
        """Some rows of the batch."""
        return Portraits(
            self.images[rows],
            self.labels[rows],
            self.landmarks[rows],
            self.attributes[rows],
            self.people[rows],
        )


def read(cache: PortraitCache, rows: np.ndarray) -> Portraits:
    """Rows of a cache as tensors."""
    images = torch.from_numpy(cache.images[rows]).float().div_(255.0)
    return Portraits(
        images,
        torch.from_numpy(cache.labels[rows]).long(),
        torch.from_numpy(cache.landmarks[rows]),
        torch.from_numpy(cache.attributes[rows]).long(),
        torch.from_numpy(rows // cache.plan.shots).long(),
    )


def identity_parameters(cache: PortraitCache) -> Tensor:
    """The parameters of every person in a cache, [P,K] in [0,1]."""
    world = cache.plan.world
    people = range(cache.plan.identities)
    return torch.tensor([identity(np.random.default_rng([world, p, 0])) for p in people])


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """[count,1,1,1] uniform numbers."""
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)


def _dct_matrix() -> Tensor:
    k = torch.arange(8)[:, None] * (2 * torch.arange(8)[None] + 1) * math.pi / 16
    matrix = torch.cos(k) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


_DCT = _dct_matrix()
_FREQUENCY = torch.arange(8)[:, None] + torch.arange(8)[None]


def _to_ycc(x: Tensor) -> Tensor:
    y = (x * x.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    return torch.cat((y, (x[:, 2:] - y) * 0.564, (x[:, :1] - y) * 0.713), 1)


def _from_ycc(x: Tensor) -> Tensor:
    y, cb, cr = x[:, :1], x[:, 1:2], x[:, 2:]
    red, blue = y + cr / 0.713, y + cb / 0.564
    return torch.cat((red, (y - 0.299 * red - 0.114 * blue) / 0.587, blue), 1)


def block_quantise(images: Tensor, strength: Tensor) -> Tensor:
    """8x8 block DCT rounded to steps that grow with frequency, as in JPEG.

    images [B,3,H,W] with sides that are multiples of 8; strength [B,1,1,1] scales the steps
    (0.3 about quality 85, 1 about quality 50).
    """
    b, _, h, w = images.shape
    blocks = _to_ycc(images).view(b, 3, h // 8, 8, w // 8, 8).permute(0, 1, 2, 4, 3, 5)
    spectrum = _DCT @ blocks @ _DCT.T
    steps = (0.06 + 0.035 * _FREQUENCY) * strength[..., None, None]
    rounded = (spectrum / steps).round() * steps
    back = (_DCT.T @ rounded @ _DCT).permute(0, 1, 2, 4, 3, 5).reshape(b, 3, h, w)
    return _from_ycc(back).clamp(0, 1)


def _blur(images: Tensor, generator: torch.Generator) -> Tensor:
    """A shrink by one random factor, and back."""
    h, w = images.shape[-2:]
    factor = 1.2 + 1.6 * float(torch.rand((), generator=generator))
    size = (max(8, round(h / factor)), max(8, round(w / factor)))
    small = F.interpolate(images, size, mode="bilinear", antialias=True)
    return F.interpolate(small, (h, w), mode="bicubic").clamp(0, 1)


def _autoencoder_like(images: Tensor, generator: torch.Generator) -> Tensor:
    """What a small autoencoder does: slight softening, washed chroma, smooth blotches."""
    b, _, h, w = images.shape
    ycc = _to_ycc(images)
    half = F.interpolate(ycc, scale_factor=0.5, mode="bilinear", antialias=True)
    soft = F.interpolate(half, (h, w), mode="bicubic")
    ycc = torch.cat((0.6 * ycc[:, :1] + 0.4 * soft[:, :1], soft[:, 1:]), 1)
    blotches = torch.randn(b, 3, h // 8, w // 8, generator=generator)
    ycc = ycc + 0.025 * F.interpolate(blotches, (h, w), mode="bilinear")
    return _from_ycc(ycc).clamp(0, 1)


def _light(images: Tensor, generator: torch.Generator) -> Tensor:
    """Gain, offset and gamma."""
    count = len(images)
    gamma = uniform(count, 0.85, 1.18, generator)
    gain = uniform(count, 0.9, 1.1, generator)
    return (images.clamp_min(1e-3).pow(gamma) * gain).clamp(0, 1)


def degrade(images: Tensor, generator: torch.Generator, share: float = 0.3) -> Tensor:
    """Each degradation on a random `share` of the batch: light, softening, blur, noise, JPEG."""
    images = images.clone()

    def chosen() -> Tensor:
        return (torch.rand(len(images), generator=generator) < share).nonzero()[:, 0]

    for change in (_light, _autoencoder_like, _blur):
        index = chosen()
        if len(index):
            images[index] = change(images[index], generator)
    index = chosen()
    if len(index):
        part = images[index]
        noise = torch.randn(part.shape, generator=generator)
        images[index] = (part + noise * uniform(len(index), 0.0, 0.06, generator)).clamp(0, 1)
    index = chosen()
    if len(index):
        strength = uniform(len(index), 0.2, 1.2, generator)
        images[index] = block_quantise(images[index], strength)
    return images


def jitter(landmarks: Tensor, generator: torch.Generator, sigma: float = 0.8) -> Tensor:
    """Landmarks [B,5,2] with detector-like errors: each point, and all of them together."""
    own = torch.randn(landmarks.shape, generator=generator)
    common = torch.randn(len(landmarks), 1, 2, generator=generator)
    return landmarks + sigma * (own + 0.5 * common)


def random_affine(
    count: int, size: int, generator: torch.Generator, *, scale: tuple[float, float], turn: float
) -> Tensor:
    """Maps [B,2,3] from output to input pixels: zoom in `scale`, up to `turn` degrees, shifts."""
    zoom = uniform(count, math.log(scale[0]), math.log(scale[1]), generator).flatten().exp()
    angle = uniform(count, -turn, turn, generator).flatten() * math.pi / 180
    shift = (torch.rand(count, 2, generator=generator) - 0.5) * size * 0.3
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    linear = torch.stack((torch.stack((cos, -sin), -1), torch.stack((sin, cos), -1)), 1)
    centre = torch.full((2,), (size - 1) / 2)
    offset = centre - (linear @ (centre + shift)[..., None])[..., 0]
    return torch.cat((linear, offset[..., None]), 2)


def warp(images: Tensor, back: Tensor, *, nearest: bool = False) -> Tensor:
    """Resample [B,C,H,W] by maps from output to input pixels; the border continues."""
    h, w = images.shape[-2:]
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    points = torch.stack((x, y, torch.ones_like(x)), -1).float().reshape(1, -1, 3)
    xy = (points @ back.transpose(1, 2) + 0.5) / torch.tensor([w / 2.0, h / 2.0]) - 1
    return F.grid_sample(
        images,
        xy.view(-1, h, w, 2),
        mode="nearest" if nearest else "bilinear",
        padding_mode="border",
        align_corners=False,
    )


def warp_points(points: Tensor, back: Tensor) -> Tensor:
    """Where points [B,N,2] of the input lie in the output of `warp`."""
    moved: Tensor = (points - back[:, None, :, 2]).transpose(1, 2)
    found: Tensor = torch.linalg.solve(back[..., :2], moved)
    return found.mT


def _erase_faces(batch: Portraits, generator: torch.Generator) -> Tensor:
    """Portraits whose head is painted over in one colour each."""
    head = ((batch.labels > 0) & (batch.labels < 14) | (batch.labels == 17)).unsqueeze(1).float()
    head = F.max_pool2d(head, 5, 1, 2)
    colour = torch.rand(len(head), 3, 1, 1, generator=generator)
    return batch.images * (1 - head) + colour * head


def _shuffled(images: Tensor, generator: torch.Generator) -> Tensor:
    """The portrait's tiles of 32 pixels in random order."""
    b, c, h, w = images.shape
    rows, columns = h // 32, w // 32
    tiles = images.view(b, c, rows, 32, columns, 32).permute(2, 4, 0, 1, 3, 5)
    tiles = tiles.reshape(rows * columns, b, c, 32, 32)
    order = torch.randperm(rows * columns, generator=generator)
    tiles = tiles[order].view(rows, columns, b, c, 32, 32)
    return tiles.permute(2, 3, 0, 4, 1, 5).reshape(b, c, h, w)


def _textures(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Smooth or fine random textures, plain colours and gradients among them."""
    pictures = []
    for _ in range(count):
        cells = int(torch.randint(1, 24, (), generator=generator))
        base = torch.rand(1, 3, cells, cells, generator=generator)
        grown = F.interpolate(base, (size, size), mode="bicubic").clamp(0, 1)
        noise = torch.randn(grown.shape, generator=generator)
        amount = 0.15 * float(torch.rand((), generator=generator)) ** 2
        pictures.append((grown + amount * noise).clamp(0, 1))
    return torch.cat(pictures)


def without_faces(batch: Portraits, generator: torch.Generator) -> Tensor:
    """As many pictures without a whole face: erased heads, shuffled tiles, textures."""
    count = len(batch.images)
    third = count // 3
    size = batch.images.shape[-1]
    parts = (
        _erase_faces(batch, generator)[:third],
        _shuffled(batch.images[third : 2 * third], generator),
        _textures(count - 2 * third, size, generator),
    )
    return torch.cat([part for part in parts if len(part)])
