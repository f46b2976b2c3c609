"""Training of the FLUX transformer together with its text encoder, by rectified flow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fluxguard_core.backends.flux import image_ids, pack
from fluxguard_core.backends.flux_keys import AXES_DIMS, HEAD_DIM, flux_from_diffusers
from fluxguard_core.backends.geometry import FLUX
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.portrait_spec import CHOICES
from fluxguard_core.mini.text import (
    CONTEXT_WIDTH,
    POOLED_WIDTH,
    TOKENS,
    TextEncoder,
    text_metadata,
    token_ids,
)

from .anatomy import PACKAGED, Anatomy
from .cache import PortraitCache, open_cache
from .handover import hand_over
from .latents import prepared_latents
from .scene import WEIGHT, SceneHead, scene_vectors, token_focus, token_labels
from .training import Recipe, TrainPlan, TrainState, train
from .wordings import training_caption

SHIFT = 0.4675  # FLUX's mu for 64 image tokens: linear through (256, 0.5) and (4096, 1.15)
CAPTION_DROPOUT = 0.1
# Small and rare things are shown more often, or they are hardly learnt.
EMPHASIS = {"earrings": 4.0, "beard": 2.0}
DISTIL_FROM = 0.7
STRONGEST_GUIDANCE = 6.0
RATE = 1.5e-3

# diffusers is optional and loosely typed: FluxTransformer2DModel in every signature.
FluxTransformer = Any


def flux_transformer(anatomy: Anatomy = PACKAGED) -> FluxTransformer:
    """A fresh narrow FLUX in diffusers' class."""
    try:
        from diffusers import FluxTransformer2DModel
    except ImportError as error:
        raise FluxGuardError(
            "This needs the diffusers package. Install it with: pip install 'fluxguard[diffusers]'"
        ) from error
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * FLUX.channels,
        num_layers=anatomy.double_blocks,
        num_single_layers=anatomy.single_blocks,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=anatomy.width // HEAD_DIM,
        joint_attention_dim=CONTEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=AXES_DIMS,
    )


class FluxAndText(nn.Module):
    """Transformer and text encoder, trained as one; `head` asks the middle layers what they see."""

    def __init__(
        self, transformer: FluxTransformer, text: TextEncoder, head: SceneHead | None = None
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.text = text
        self.head = head

    def forward(self, tokens: Tensor, ids: Tensor, sigma: Tensor, guidance: Tensor) -> Tensor:
        """Velocity of packed latents [B,L,64] at sigma [B] under token ids [B,TOKENS]."""
        context, pooled = self.text.encode_ids(ids)
        side = math.isqrt(tokens.shape[1])
        return self.transformer(
            hidden_states=tokens,
            encoder_hidden_states=context,
            pooled_projections=pooled,
            timestep=sigma,
            guidance=guidance,
            img_ids=image_ids(side, side, tokens.device),
            txt_ids=torch.zeros(TOKENS, 3, device=tokens.device),
            return_dict=False,
        )[0]


def new_model(seed: int, scene: int, anatomy: Anatomy = PACKAGED) -> FluxAndText:
    """Fresh weights; output and modulations start at zero as in DiT. `scene`: width of a scene vector."""
    torch.manual_seed(seed)
    transformer = flux_transformer(anatomy)
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if ".norm" in name or name.startswith(("norm_out", "proj_out")):
                nn.init.zeros_(module.weight)
    return FluxAndText(transformer, TextEncoder(), SceneHead(anatomy.width, scene))


def draw_sigma(count: int, device: str) -> Tensor:
    """Noise levels [count]: logit-normal with FLUX's shift; one in six uniform, for the ends."""
    t = torch.sigmoid(torch.randn(count, device=device))
    t = torch.where(torch.rand(count, device=device) < 1 / 6, torch.rand(count, device=device), t)
    t = t.clamp(1e-4, 1.0)
    return math.exp(SHIFT) / (math.exp(SHIFT) + 1.0 / t - 1.0)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Packed latents [B,L,64], token ids [B,TOKENS], scene vectors [B,G], classes [B,L,19]."""

    latents: Tensor
    ids: Tensor
    scene: Tensor
    labels: Tensor


def emphasis(cache: PortraitCache) -> np.ndarray:
    """How often each portrait [N] is shown, relative to one with neither earrings nor a beard."""
    weights = np.ones(cache.plan.count)
    for i, (name, values) in enumerate(CHOICES.items()):
        if name in EMPHASIS:
            weights *= np.where(cache.attributes[:, i] == values.index("yes"), EMPHASIS[name], 1.0)
    return weights


class _Batches:
    """Random latents with freshly worded captions."""

    def __init__(self, cache: PortraitCache, latents: np.ndarray, plan: TrainPlan) -> None:
        self.cache, self.latents, self.plan = cache, latents, plan
        self.scenes = scene_vectors(cache)
        self.focus = token_focus(cache).to(plan.device)
        self.ladder = np.cumsum(emphasis(cache))

    def draw(self, step: int) -> _Batch:
        """A step has its batch, resumed or not."""
        rng = np.random.default_rng((self.plan.seed + 1, step))
        drawn = self.ladder[-1] * rng.random(self.plan.batch)
        rows = np.sort(np.searchsorted(self.ladder, drawn, side="right"))
        z = torch.from_numpy(np.asarray(self.latents[rows])).float()
        texts = [
            ""
            if rng.random() < CAPTION_DROPOUT
            else training_caption(self.cache.attributes_of(int(r)), rng)
            for r in rows
        ]
        ids = torch.tensor([token_ids(t) for t in texts])
        found = pack(z), ids, self.scenes[torch.from_numpy(rows)], token_labels(self.cache, rows)
        return _Batch(*(tensor.to(self.plan.device) for tensor in found))


@torch.no_grad()
def _guided(
    teacher: FluxAndText, z: Tensor, ids: Tensor, sigma: Tensor, target: Tensor, strength: Tensor
) -> Tensor:
    """Target under classifier-free guidance: v + (g - 1)(v_cond - v_uncond) of the teacher."""
    one = torch.ones_like(sigma)
    both = teacher(
        torch.cat([z, z]),
        torch.cat([ids, torch.zeros_like(ids)]),
        torch.cat([sigma, sigma]),
        torch.cat([one, one]),
    ).float()
    conditional, unconditional = both.chunk(2)
    return target + (strength - 1.0)[:, None, None] * (conditional - unconditional)


def flow_loss(
    state: TrainState, batches: _Batches, progress: float
) -> tuple[Tensor, dict[str, float]]:
    """Rectified flow at guidance 1; from DISTIL_FROM on, half of the batch at guidance 1 to 6."""
    batch = batches.draw(state.step)
    z0, ids = batch.latents, batch.ids
    noise = torch.randn_like(z0)
    sigma = draw_sigma(len(z0), batches.plan.device)
    z = torch.lerp(z0, noise, sigma[:, None, None])
    target = noise - z0
    strength = torch.ones_like(sigma)
    half = len(z0) // 2
    if progress > DISTIL_FROM:
        strength[:half] = 1.0 + (STRONGEST_GUIDANCE - 1.0) * torch.rand_like(strength[:half])
        teacher: FluxAndText = state.average  # type: ignore[assignment]
        target[:half] = _guided(
            teacher, z[:half], ids[:half], sigma[:half], target[:half], strength[:half]
        )
    model: FluxAndText = state.module  # type: ignore[assignment]
    squares = ((model(z, ids, sigma, strength).float() - target) ** 2).mean(2)
    error = (squares * batches.focus).mean(1)
    # A guided target is larger: weigh by its strength so that guidance 1 keeps its precision.
    loss = (error / strength).mean()
    assert model.head is not None
    seen = model.head.loss(batch.scene, batch.labels).mean()
    figures = {
        "plain": float(squares[half:].detach().mean()),
        "focus": float(error[half:].detach().mean()),
        "scene": float(seen.detach()),
    }
    return loss + WEIGHT * seen, figures


def train_flux(plan: TrainPlan) -> None:
    """Writes the anatomy's `...-flux` and `...-text` (float16) into plan.out."""
    cache = open_cache(plan.cache, plan.portraits)
    latents = prepared_latents(plan, cache)
    batches = _Batches(cache, latents, plan)
    model = new_model(plan.seed, batches.scenes.shape[1], plan.anatomy)
    average = train(
        "flux",
        model,
        lambda s, p: flow_loss(s, batches, p),
        plan,
        Recipe(RATE, muon="transformer_blocks."),
        prepare=lambda s: _prepare(s, plan.compile),
    )
    save_flux(average, plan)  # type: ignore[arg-type]


def _prepare(state: TrainState, compiled: bool) -> None:
    model: FluxAndText = state.module  # type: ignore[assignment]
    assert model.head is not None
    model.head.listen(model.transformer)
    if compiled:
        _compile_blocks(state)


def _compile_blocks(state: TrainState) -> None:
    """Half again as fast on a CPU; the two kinds of block are compiled once each."""
    for module in (state.module, state.average):
        transformer: Any = module.transformer
        # For so few tokens plain matrix products beat the flash kernel, most of all on the way back.
        transformer.set_attention_backend("_native_math")
        transformer.compile_repeated_blocks(dynamic=False)


def save_flux(model: FluxAndText, plan: TrainPlan) -> None:
    """Black Forest Labs key names, float16; the text encoder beside it."""
    state = flux_from_diffusers(model.transformer.state_dict())
    half = {k: v.to(torch.float16).contiguous().cpu() for k, v in state.items()}
    flux, text = (plan.out / f"{plan.anatomy.name}-{p}.safetensors" for p in ("flux", "text"))
    save_file(half, flux, {"format": "pt", "licence": "Apache-2.0"})
    words = {k: v.to(torch.float16).contiguous().cpu() for k, v in model.text.state_dict().items()}
    save_file(words, text, text_metadata(model.text))
    hand_over(flux, "diffusion_models")
    hand_over(text, "text_encoders")
