"""Training of a small LoRA of the miniature FLUX on portraits in a drawing style."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fluxguard_core.backends.flux import pack
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.text import token_ids
from fluxguard_core.mini.world import load_autoencoder, load_text_encoder, load_transformer

from .cache import PortraitCache, open_cache
from .handover import earlier, hand_over
from .styles import sepia_drawing
from .train_flux import FluxAndText, draw_sigma
from .training import Recipe, TrainPlan, TrainState, train
from .wordings import training_caption

RANK = 8
PICTURES = 3072
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_mlp", "proj_out", "ff.net.0.proj", "ff.net.2")
STYLE = "sepia"


def _with_adapter(plan: TrainPlan) -> FluxAndText:
    """The model to build on, frozen, with a fresh adapter; alpha = rank so that hosts apply it at 1."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise FluxGuardError(
            "Training a LoRA needs the peft package. Install it with: pip install 'fluxguard[diffusers]'"
        ) from error
    transformer = load_transformer(earlier("flux", plan))
    text = load_text_encoder(earlier("text", plan))
    blocks = [
        name
        for name, module in transformer.named_modules()
        if "transformer_blocks." in name
        and name.endswith(TARGETS)
        and isinstance(module, nn.Linear)
    ]
    transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=blocks))
    return FluxAndText(transformer, text)


def _styled_latents(cache: PortraitCache, plan: TrainPlan) -> Tensor:
    """Packed latents [N,L,64] of the first PICTURES portraits in the style."""
    device = plan.device
    coder = load_autoencoder(earlier("vae", plan)).to(device)
    found = []
    count = min(PICTURES, cache.plan.count)
    for start in range(0, count, 32):
        rows = slice(start, min(start + 32, count))
        images = torch.from_numpy(np.asarray(cache.images[rows])).to(device) / 255.0
        with torch.no_grad(), torch.autocast(torch.device(device).type, torch.bfloat16):
            found.append(pack(coder.encode(sepia_drawing(images) * 2.0 - 1.0).latents.float()))
    return torch.cat(found)


def train_lora(plan: TrainPlan) -> None:
    """Writes `fluxguard-mini-sepia.safetensors` (float16, diffusers' LoRA keys) into plan.out."""
    torch.manual_seed(plan.seed)
    cache = open_cache(plan.cache, plan.portraits)
    latents = _styled_latents(cache, plan)
    model = _with_adapter(plan)

    def loss(state: TrainState, progress: float) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((plan.seed, state.step))
        rows = rng.integers(0, len(latents), plan.batch)
        texts = [training_caption(cache.attributes_of(int(r)), rng) for r in rows]
        z0 = latents[torch.from_numpy(rows)]
        noise, sigma = torch.randn_like(z0), draw_sigma(plan.batch, plan.device)
        # Over the range that edits use: the style has to show at every guidance.
        strength = 1.0 + 3.0 * torch.rand_like(sigma) * (torch.rand_like(sigma) < 0.5)
        ids = torch.tensor([token_ids(t) for t in texts], device=plan.device)
        z = torch.lerp(z0, noise, sigma[:, None, None])
        velocity = state.module(z, ids, sigma, strength).float()
        return ((velocity - (noise - z0)) ** 2).mean(), {}

    trained = train("lora", model, loss, plan, Recipe(2e-3, decay=0.0, average=0.99, warmup=0.05))
    save_lora(trained, plan)


def save_lora(model: Any, plan: TrainPlan) -> None:
    """Keys `transformer.<module>.lora_A.weight`, which ComfyUI's LoRA loader and diffusers read."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model.transformer)
    named = {f"transformer.{k}": v.to(torch.float16).contiguous().cpu() for k, v in state.items()}
    path = plan.out / f"fluxguard-mini-{STYLE}.safetensors"
    save_file(named, path, {"format": "pt", "licence": "Apache-2.0"})
    hand_over(path, "loras")
