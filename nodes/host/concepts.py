"""Concept attention on a MODEL: one evaluation, through patches on a clone and nothing else.

The concepts' tokens stand behind the prompt's; a patch on attention shuts them off from picture and prompt, another
one sees what attention has gathered. Weights are only used, so LoRA, fp8, GGUF and offloading keep working.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...fluxguard_core.backends.geometry import FLUX
from ...fluxguard_core.backends.similarity import (
    SIGMA,
    concept_blocks,
    concept_mask,
    over_picture,
    token_scores,
)
from ...fluxguard_core.errors import FluxGuardError
from ...fluxguard_core.flow import Block, Trajectory
from .field import with_field
from .flux import Model, flux_layout

Attention = Callable[[Tensor, Sequence[str]], Tensor]


def concept_attention(model: Model, clip: Any, trajectory: Trajectory, number: int) -> Attention:
    """Where phrases are in picture ``number`` of the trajectory, at its step nearest to half noise.

    Called with the picture [3, H, W] that was encoded and N phrases; gives scores [N, H, W].
    """
    trajectory.check_model(flux_layout(model))
    step = int((trajectory.sigmas - SIGMA).abs().argmin())

    def attend(picture: Tensor, phrases: Sequence[str]) -> Tensor:
        latent = trajectory.state(step, torch.device("cpu"))[number : number + 1]
        scores = _scores(model, clip, latent, trajectory, step, phrases)
        height, width = picture.shape[-2:]
        return _placed(scores, latent, (height, width))

    return attend


def _scores(
    model: Model,
    clip: Any,
    latent: Tensor,
    trajectory: Trajectory,
    step: int,
    phrases: Sequence[str],
) -> Tensor:
    """Scores [N, L] of every phrase at every picture token."""
    context, pooled = _encoded(clip, "")
    words = torch.stack([_encoded(clip, phrase)[0][0, 0] for phrase in phrases])
    conditioning = [
        [torch.cat([context, words[None]], 1), {"pooled_output": pooled, "guidance": 1.0}]
    ]
    blocks, count = concept_blocks(flux_layout(model)), len(phrases)
    gathered: dict[Block, tuple[Tensor, Tensor]] = {}
    patched = model.clone()
    patched.set_model_attn1_patch(_shut_off(count))
    patched.set_model_attn1_output_patch(_listening(blocks, count, gathered))
    sigma = float(trajectory.sigmas[step])
    with_field(
        patched,
        conditioning,
        lambda field: field(latent.to(patched.load_device), sigma),
        shape=latent.shape,
        sigmas=trajectory.sigmas,
        solver="midpoint",
        raw=True,
    )
    if len(gathered) != len(blocks):
        raise FluxGuardError(
            "Concept attention was due in this pass, but the MODEL never passed by it. A step-skipping cache or a "
            "replaced transformer is at work on this MODEL: switch it off."
        )
    return token_scores([gathered[block] for block in blocks])


def _encoded(clip: Any, text: str) -> tuple[Tensor, Tensor]:
    """Context [1, T, D] and pooled vector of a text."""
    context, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    return context.float(), pooled


def _shut_off(count: int) -> Callable[..., dict[str, Tensor]]:
    """A patch under which only the last ``count`` text tokens see themselves."""
    known: dict[tuple[int, ...], Tensor] = {}

    def attention(q: Tensor, k: Tensor, v: Tensor, **given: Any) -> dict[str, Tensor]:
        text, total = given["extra_options"]["img_slice"]
        key = (text, total)
        if key not in known:
            seen = concept_mask(text - count, count, total - text, q.device)
            hidden = torch.zeros(total, total, dtype=q.dtype, device=q.device)
            known[key] = hidden.masked_fill_(~seen, torch.finfo(q.dtype).min / 2)
        return {"attn_mask": known[key].to(q)}

    return attention


def _listening(
    blocks: Sequence[Block], count: int, gathered: dict[Block, tuple[Tensor, Tensor]]
) -> Callable[[Tensor, dict[str, Any]], Tensor]:
    def output(attended: Tensor, options: dict[str, Any]) -> Tensor:
        block = Block(options["block_type"], options["block_index"])
        if block in blocks:
            text = options["img_slice"][0]
            kept = attended[0].detach().float().cpu()
            gathered[block] = (kept[text:], kept[text - count : text])
        return attended

    return output


def _placed(scores: Tensor, latent: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores of tokens over the picture [N, H, W], which VAE Encode cut to whole latents from the middle."""
    side = FLUX.pixels
    encoded = (latent.shape[-2] * side, latent.shape[-1] * side)
    if any(not 0 <= had - has < side for had, has in zip(size, encoded, strict=True)):
        raise FluxGuardError(
            f"The trajectory is of a picture of {encoded[1]} x {encoded[0]} pixels, but this one is {size[1]} x "
            f"{size[0]}. Connect the picture that was encoded and inverted."
        )
    grid = (-(-latent.shape[-2] // 2), -(-latent.shape[-1] // 2))
    maps = over_picture(scores, grid, FLUX.pixels_per_token, encoded)
    top, left = (size[0] - encoded[0]) // 2, (size[1] - encoded[1]) // 2
    edges = (left, size[1] - encoded[1] - left, top, size[0] - encoded[0] - top)
    return F.pad(maps[None], edges, mode="replicate")[0]
