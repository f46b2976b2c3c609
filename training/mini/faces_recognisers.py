"""Architecture, objective and measurement of the miniature's five recognisers.

The class centres of the margin loss are a learned function of the parameters that the renderer
drew an identity from. Thousands of people thus share what is learned about each, and a few hundred
steps already separate people who were never shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxguard_core.faces.alignment import align
from fluxguard_core.mini.portrait_spec import IDENTITY_PARAMETERS
from fluxguard_core.recognition.backbones.inception_resnet import InceptionResnetV1
from fluxguard_core.recognition.backbones.iresnet_evolve import IRBackbone
from fluxguard_core.recognition.backbones.mobilefacenet import MobileFaceNet
from fluxguard_core.recognition.backbones.vit import FaceViT
from fluxguard_core.recognition.encoder import FaceEncoder, Strangers, Threshold
from fluxguard_core.recognition.thresholds import (
    accept_rate,
    spread_of,
    stranger_cosines,
    threshold_at,
)

from .cache import PortraitCache
from .faces_data import degrade, jitter, read

DIMENSION = 128


@dataclass(frozen=True, eq=False)
class Recipe:
    """One recogniser: its network, its input size, and how it trains best on a CPU."""

    build: Callable[[], nn.Module]
    size: int
    steps: int
    seed: int
    half: bool = True
    rate: float = 2e-3


RECIPES: dict[str, Recipe] = {
    "ir": Recipe(
        lambda: IRBackbone((1, 2, 2, 1), width=16, dimension=DIMENSION, size=80), 80, 2200, 11
    ),
    "irse": Recipe(
        lambda: IRBackbone((1, 1, 3, 1), se=True, width=16, dimension=DIMENSION, size=80),
        80,
        2200,
        12,
    ),
    "facenet": Recipe(
        lambda: InceptionResnetV1(width=8, depth=(1, 2, 1), dimension=DIMENSION), 96, 2600, 13
    ),
    "mobileface": Recipe(
        lambda: MobileFaceNet(width=16, depth=(1, 3, 1), dimension=DIMENSION, size=80),
        80,
        2400,
        14,
        half=False,
    ),
    "vit": Recipe(
        lambda: FaceViT(width=128, depth=4, patch=16, hidden=256, dimension=DIMENSION),
        112,
        2400,
        15,
        half=False,
        rate=1e-3,
    ),
}


class MarginObjective(nn.Module):
    """CosFace (arXiv 1801.09414, eq. 4) over all people, plus a regression of their parameters."""

    def __init__(self, network: nn.Module, parameters: Tensor, scale: float = 24.0) -> None:
        super().__init__()
        self.network = network
        count = len(IDENTITY_PARAMETERS)
        self.centres = nn.Sequential(nn.Linear(count, 256), nn.GELU(), nn.Linear(256, DIMENSION))
        self.regress = nn.Linear(DIMENSION, count)
        self.register_buffer("people", parameters * 2 - 1)
        self.people: Tensor
        self.scale = scale

    def loss(self, raw: Tensor, people: Tensor, margin: float) -> Tensor:
        """raw [B,D] embeddings before normalisation, people [B] their numbers."""
        embedded = F.normalize(raw, dim=1)
        cosines = embedded @ F.normalize(self.centres(self.people), dim=1).T
        cosines = cosines - margin * F.one_hot(people, len(self.people))
        margin_loss = F.cross_entropy(self.scale * cosines, people)
        regression = F.mse_loss(self.regress(raw), self.people[people])
        return margin_loss + 4.0 * regression


def training_crops(
    cache: PortraitCache, recipe: Recipe, batch: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Degraded, roughly aligned crops [B,3,S,S] of random portraits, and who they show."""
    rows = torch.randint(0, cache.plan.count, (batch,), generator=generator).numpy()
    portraits = read(cache, rows)
    points = jitter(portraits.landmarks, generator)
    smooth = bool(torch.rand((), generator=generator) < 0.2)
    crops = align(portraits.images, points, recipe.size, antialias=smooth).clamp(0, 1)
    return degrade(crops, generator, 0.25), portraits.people


@dataclass(frozen=True)
class Verification:
    """Measured on people that no network was trained on.

    Thresholds come from one half of them; the true and false accept rates at FAR 1e-2 and 1e-3
    from the other half. `degraded` is the true accept rate at 1e-2 after blur, noise, JPEG;
    `genuine` and `strangers` are mean cosines, `apart` the mean and spread that thresholds are kept with.
    """

    thresholds: tuple[Threshold, ...]
    accept: tuple[float, float]
    false: tuple[float, float]
    degraded: float
    genuine: float
    strangers: float
    apart: Strangers


@torch.no_grad()
def embed_cache(
    encoder: FaceEncoder, cache: PortraitCache, *, degraded: bool = False, seed: int = 5
) -> Tensor:
    """Embeddings [N,D] of a whole cache, aligned by true landmarks with detector-like errors."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, cache.plan.count, 64):
        stop = min(start + 64, cache.plan.count)
        portraits = read(cache, torch.arange(start, stop).numpy())
        images = degrade(portraits.images, generator) if degraded else portraits.images
        points = jitter(portraits.landmarks, generator)
        parts.append(encoder(align(images, points, encoder.size)))
    return torch.cat(parts)


def genuine_cosines(embeddings: Tensor, people: Tensor) -> Tensor:
    """Cosines of all pairs of pictures of one person."""
    same = (people[:, None] == people[None]).triu(1)
    return (embeddings @ embeddings.T)[same]


def verify(encoder: FaceEncoder, cache: PortraitCache) -> Verification:
    """Thresholds on the first half of a held-out cache's people, rates on the second."""
    clean, worse = embed_cache(encoder, cache), embed_cache(encoder, cache, degraded=True)
    people = torch.from_numpy(cache.identity_ids())
    half = cache.plan.identities // 2
    first, second = people < half, people >= half
    labels = [str(int(p)) for p in people]

    def strangers(mask: Tensor, embeddings: Tensor) -> Tensor:
        names = [name for name, kept in zip(labels, mask.tolist(), strict=True) if kept]
        return stranger_cosines(embeddings[mask], names)

    source = f"{half} held-out people of the miniature's renderer, {cache.plan.shots} pictures each"
    reference = strangers(first, clean)
    loose, strict = (threshold_at(reference, far) for far in (1e-2, 1e-3))
    genuine, others = genuine_cosines(clean[second], people[second]), strangers(second, clean)
    return Verification(
        (Threshold(1e-2, loose, source), Threshold(1e-3, strict, source)),
        (accept_rate(genuine, loose), accept_rate(genuine, strict)),
        (accept_rate(others, loose), accept_rate(others, strict)),
        accept_rate(genuine_cosines(worse[second], people[second]), loose),
        float(genuine.mean()),
        float(others.mean()),
        spread_of(reference, source),
    )
