"""Where a FLUX transformer looks: attention maps of chosen blocks, read by hooks on its query and key norms."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backends.flux import DiffusersModel

_KEYS = 16  # image keys are pooled to a grid of at most so many a side
_QUERIES = 256


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """Mean over heads of one block's attention, from image queries.

    Args:
        cross: to the text tokens [B, Q, T].
        own: to the image, pooled [B, Q, K]; the shares of both sum to 1 along the keys.
    """

    cross: Tensor
    own: Tensor


@dataclass(eq=False)
class Recording:
    """The maps of one evaluation, block after block."""

    maps: list[AttentionMap] = field(default_factory=list)


@contextmanager
def recorded_attention(
    transformer: DiffusersModel, text_tokens: int, grid: tuple[int, int]
) -> Iterator[Recording]:
    """Record the maps of every evaluation in here, with gradients where they are on; the model stays clean.

    Args:
        text_tokens: T; they precede the image tokens.
        grid: rows and columns of the image tokens.
    """
    recording, handles = Recording(), []
    for attention in _spread(transformer):
        handles += _listen(attention, recording, text_tokens, grid)
    try:
        yield recording
    finally:
        for handle in handles:
            handle.remove()


def _spread(transformer: DiffusersModel) -> list[nn.Module]:
    """Four double and four single blocks, evenly spread over the depth."""
    double, single = transformer.transformer_blocks, transformer.single_transformer_blocks
    chosen = []
    for blocks in (double, single):
        count = min(4, len(blocks))
        chosen += [blocks[(2 * i + 1) * len(blocks) // (2 * count)].attn for i in range(count)]
    return chosen


def _listen(
    attention: nn.Module, recording: Recording, text_tokens: int, grid: tuple[int, int]
) -> list[Any]:
    heard: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, given: Any, result: Tensor) -> None:
            heard[name] = result

        return hook

    def finish(module: nn.Module, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        query, key = heard["norm_q"], heard["norm_k"]
        if "norm_added_q" in heard:
            query = torch.cat([heard["norm_added_q"], query], 1)
            key = torch.cat([heard["norm_added_k"], key], 1)
        heard.clear()
        rotary = kwargs.get("image_rotary_emb")
        recording.maps.append(_map(*_rotated(query, key, rotary), text_tokens, grid))

    names = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")
    norms = [(name, getattr(attention, name, None)) for name in names]
    handles = [norm.register_forward_hook(keep(name)) for name, norm in norms if norm is not None]
    return [*handles, attention.register_forward_hook(finish, with_kwargs=True)]


def _rotated(query: Tensor, key: Tensor, rotary: Any) -> tuple[Tensor, Tensor]:
    if rotary is None:
        return query, key
    from diffusers.models.embeddings import apply_rotary_emb

    return tuple(apply_rotary_emb(x, rotary, sequence_dim=1) for x in (query, key))  # type: ignore[return-value]


def _map(query: Tensor, key: Tensor, text_tokens: int, grid: tuple[int, int]) -> AttentionMap:
    """Attention of [B, tokens, heads, D] queries and keys."""
    rows, columns = grid
    image = query[:, text_tokens:]
    stride = math.ceil(image.shape[1] / _QUERIES)
    looking = image[:, ::stride].float().movedim(2, 1)
    keys = key.float().movedim(2, 1)
    weights = (looking @ keys.transpose(2, 3) / math.sqrt(query.shape[-1])).softmax(-1).mean(1)
    cross, own = weights[..., :text_tokens], weights[..., text_tokens:]
    target = (min(rows, _KEYS), min(columns, _KEYS))
    squares = own.reshape(-1, 1, rows, columns)
    pooled = F.adaptive_avg_pool2d(squares, target) * (rows * columns / (target[0] * target[1]))
    return AttentionMap(cross, pooled.reshape(*own.shape[:2], -1))
