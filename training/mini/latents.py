"""Latents of the cached portraits, encoded once by the trained autoencoder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from fluxguard_core.backends.geometry import FLUX
from fluxguard_core.backends.taesd import AutoencoderTiny
from fluxguard_core.mini.world import load_autoencoder

from .cache import PortraitCache, cache_folder
from .handover import earlier
from .training import TrainPlan

_BATCH = 32


def latent_cache(
    cache: PortraitCache, autoencoder: AutoencoderTiny, mark: str, folder: Path, device: str = "cpu"
) -> np.ndarray:
    """Model-space latents [N,16,S/8,S/8] float16 as a memory map, made on the first call.

    Args:
        mark: names the autoencoder (its file's hash), so that another one gets its own cache.
    """
    side = cache.plan.size // 8
    shape = (cache.plan.count, FLUX.channels, side, side)
    path, progress = folder / f"latents-{mark}.f16", folder / f"latents-{mark}.json"
    done = json.loads(progress.read_text(encoding="utf-8"))["rows"] if progress.exists() else 0
    out = np.memmap(path, np.float16, "r+" if path.exists() else "w+", shape=shape)
    coder = autoencoder.to(device).eval()
    for start in range(done, cache.plan.count, _BATCH):
        rows = slice(start, min(start + _BATCH, cache.plan.count))
        images = torch.from_numpy(np.asarray(cache.images[rows])).to(device).float() / 127.5 - 1.0
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), torch.autocast(torch.device(device).type, torch.bfloat16):
            latents = coder.encode(images).latents
        out[rows] = latents.float().cpu().numpy().astype(np.float16)
        if start // _BATCH % 64 == 63 or rows.stop == cache.plan.count:
            progress.write_text(json.dumps({"rows": rows.stop}), encoding="utf-8")
    return out


def prepared_latents(plan: TrainPlan, cache: PortraitCache) -> np.ndarray:
    """Latents of the cache under the encoder to build on (which alone decides them)."""
    autoencoder = load_autoencoder(earlier("vae", plan))
    weights = b"".join(p.detach().numpy().tobytes() for p in autoencoder.encoder.parameters())
    mark = hashlib.sha256(weights).hexdigest()[:8]
    return latent_cache(cache, autoencoder, mark, cache_folder(plan.cache, cache.plan), plan.device)
