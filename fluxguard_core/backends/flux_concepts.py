"""Where words are in a picture, seen by FLUX itself: one forward pass of a diffusers transformer, nothing replaced.

The concepts' tokens are joined to the prompt's and shut off by an attention mask, so that the velocity of the
pass is the one without them. LoRA, quantisation and offloading keep working; no gradient is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..flow.field import Block
from ..flow.trajectory import Trajectory
from ..pictures.geometry import pad_to_multiple
from .compiled import evaluated
from .flux import DiffusersModel, FluxStack, compute_dtype, image_ids, pack
from .similarity import SIGMA, concept_blocks, concept_mask, over_picture, token_scores

Gathered = dict[Block, tuple[Tensor, Tensor]]


@torch.no_grad()
def flux_concepts(
    stack: FluxStack,
    *,
    blocks: Sequence[Block] | None = None,
    sigma: float = SIGMA,
    trajectory: Trajectory | None = None,
    seed: int = 0,
) -> Callable[[Tensor, Sequence[str]], Tensor]:
    """A concept attention on a FLUX: picture [3,H,W] in [0,1], N phrases -> scores [N,H,W].

    Args:
        blocks: whose attention is compared; None takes `concept_blocks`.
        sigma: noise level of the pass.
        trajectory: an inversion of the same picture: the pass is made at the state that it went through nearest
            to ``sigma``. Without one the picture's latent is mixed with noise from ``seed``.
    """
    chosen = concept_blocks(stack.layout) if blocks is None else tuple(blocks)

    @torch.no_grad()
    def attend(picture: Tensor, phrases: Sequence[str]) -> Tensor:
        latent, level = _state(stack, picture, sigma, trajectory, seed)
        dtype = compute_dtype(stack.transformer)
        tokens = torch.stack([stack.encode_prompt(phrase).context[0, 0] for phrase in phrases])
        gathered, _ = concept_pass(stack, latent, level, tokens.to(stack.device, dtype), chosen)
        scores = token_scores([gathered[block] for block in chosen if block in gathered])
        grid = (latent.shape[-2] // 2, latent.shape[-1] // 2)
        size = (picture.shape[-2], picture.shape[-1])
        return over_picture(scores, grid, stack.geometry.pixels_per_token, size).to(picture.device)

    return attend


@torch.no_grad()
def concept_pass(
    stack: FluxStack, latent: Tensor, sigma: float, concepts: Tensor, blocks: Sequence[Block]
) -> tuple[Gathered, Tensor]:
    """One evaluation on a latent [1, C, h, w] beside concepts [N, D]; its velocity as tokens [1, L, 4C]."""
    prompt = stack.encode_prompt("")
    dtype, transformer = concepts.dtype, stack.transformer
    context = torch.cat([prompt.context.to(stack.device, dtype), concepts[None]], 1)
    text, count = prompt.context.shape[1], len(concepts)
    tokens = pack(latent).to(dtype)
    guidance = None
    if transformer.config.guidance_embeds:
        guidance = torch.ones(1, device=latent.device, dtype=dtype)
    gathered: Gathered = {}
    with _listening(transformer, blocks, text, count, gathered):
        velocity: Tensor = evaluated(
            transformer,
            hidden_states=tokens,
            encoder_hidden_states=context,
            pooled_projections=prompt.pooled.to(stack.device, dtype),
            timestep=torch.full((1,), sigma, device=latent.device, dtype=dtype),
            img_ids=image_ids(latent.shape[-2] // 2, latent.shape[-1] // 2, latent.device),
            txt_ids=torch.zeros(text + count, 3, device=latent.device),
            guidance=guidance,
            joint_attention_kwargs={
                "attention_mask": concept_mask(text, count, tokens.shape[1], latent.device)
            },
            return_dict=False,
        )[0]
    return gathered, velocity


def _state(
    stack: FluxStack, picture: Tensor, sigma: float, trajectory: Trajectory | None, seed: int
) -> tuple[Tensor, float]:
    """The latent of the pass, of whole tokens, and its σ."""
    if trajectory is not None:
        step = int((trajectory.sigmas - sigma).abs().argmin())
        latent = trajectory.state(step, stack.device)
        return pad_to_multiple(latent, 2), float(trajectory.sigmas[step])
    source = stack.encode(picture[None])
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(seed))
    return torch.lerp(source, noise.to(source), sigma), sigma


@contextmanager
def _listening(
    transformer: DiffusersModel, blocks: Sequence[Block], text: int, count: int, gathered: Gathered
) -> Iterator[None]:
    """Note what attention gathers in some blocks, before its projection; the model is clean afterwards."""
    handles: list[Any] = []
    try:
        for block in blocks:
            handles += _hooks(transformer, block, text, count, gathered)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooks(
    transformer: DiffusersModel, block: Block, text: int, count: int, gathered: Gathered
) -> list[Any]:
    if block.kind == "single":
        module = transformer.single_transformer_blocks[block.index]
        width = module.attn.inner_dim

        def both(_: Any, args: tuple[Tensor, ...]) -> None:
            out = args[0][0, :, :width]
            gathered[block] = (out[text + count :], out[text : text + count])

        return [module.proj_out.register_forward_pre_hook(both)]
    attention = transformer.transformer_blocks[block.index].attn
    noted: list[Tensor] = []

    def image(_: Any, args: tuple[Tensor, ...]) -> None:
        noted.append(args[0][0])

    def words(_: Any, args: tuple[Tensor, ...]) -> None:
        gathered[block] = (noted.pop(), args[0][0, text : text + count])

    return [
        attention.to_out[0].register_forward_pre_hook(image),
        attention.to_add_out.register_forward_pre_hook(words),
    ]
