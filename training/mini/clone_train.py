"""Training of the miniature's cloning adapters: a recogniser's vector of one shot, the picture of another."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fluxguard_core.faces.alignment import align
from fluxguard_core.mini.captions import caption
from fluxguard_core.mini.cloners import (
    ENCODERS,
    CloneAdapter,
    adapter_path,
    save_adapter,
    view_of,
)
from fluxguard_core.mini.faces import load_recogniser
from fluxguard_core.mini.world import load_text_encoder

from .cache import PortraitCache, open_cache
from .handover import earlier, hand_over
from .latents import prepared_latents
from .training import Recipe, TrainPlan, TrainState, train

_CHUNK = 32


def train_clone_adapters(plan: TrainPlan) -> None:
    """Writes `fluxguard-cloner-NAME.safetensors` for each of ``cloners.ENCODERS`` into plan.out."""
    cache = open_cache(plan.cache, plan.portraits)
    latents = prepared_latents(plan, cache)
    rows = range(cache.plan.count)
    words = _pooled(cache, plan).to(plan.device)
    views = torch.cat([view_of(cache.spec(row).nuisance) for row in rows]).to(plan.device)
    shots = cache.plan.shots
    for name in ENCODERS:
        vectors = _vectors(cache, name).to(plan.device)

        def loss(
            state: TrainState, progress: float, vectors: Tensor = vectors
        ) -> tuple[Tensor, dict[str, float]]:
            del progress
            drawn = torch.randint(cache.plan.count, (plan.batch,))
            seen = drawn - drawn % shots + (drawn + torch.randint(1, shots, drawn.shape)) % shots
            made = state.module(vectors[seen], words[drawn], views[drawn])
            wanted = torch.from_numpy(latents[drawn.numpy()]).to(made)
            return (made - wanted).float().square().mean(), {}

        torch.manual_seed(plan.seed)
        adapter = CloneAdapter(vectors.shape[1])
        recipe = Recipe(2e-3, decay=0.05, average=0.99, warmup=0.05, log_every=100)
        trained = train(f"clone-{name}", adapter, loss, plan, recipe)
        path = adapter_path(plan.out, name)
        save_adapter(trained, path)  # type: ignore[arg-type]
        hand_over(path, "adapters")


@torch.no_grad()
def _vectors(cache: PortraitCache, name: str) -> Tensor:
    """A recogniser's unit vectors [N, D] of every portrait, cut at its own five points."""
    encoder, found = load_recogniser(name), []
    for start in range(0, cache.plan.count, _CHUNK):
        rows = slice(start, min(start + _CHUNK, cache.plan.count))
        pictures = torch.from_numpy(np.array(cache.images[rows])).float() / 255
        points = torch.from_numpy(np.array(cache.landmarks[rows]))
        found.append(encoder(align(pictures, points, encoder.crop)))
    return torch.cat(found)


@torch.no_grad()
def _pooled(cache: PortraitCache, plan: TrainPlan) -> Tensor:
    """The pooled vectors [N, 128] of every portrait's caption."""
    encoder, found = load_text_encoder(earlier("text", plan)), []
    for start in range(0, cache.plan.count, 8 * _CHUNK):
        rows = range(start, min(start + 8 * _CHUNK, cache.plan.count))
        found.append(encoder([caption(cache.attributes_of(row)) for row in rows])[1])
    return torch.cat(found)
