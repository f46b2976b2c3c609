"""Where a FLUX transformer looks: attention maps of chosen blocks, read by hooks on its query and key norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..backends.flux import DiffusersModel
from ..resampling import means

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
    """What one evaluation looked at, block after block: maps, or shares [B] given to a reference."""

    maps: list[AttentionMap] = field(default_factory=list)
    shares: list[Tensor] = field(default_factory=list)


@contextmanager
def recorded_attention(
    transformer: DiffusersModel, text_tokens: int, grid: tuple[int, int]
) -> Iterator[Recording]:
    """Record the maps of every evaluation in here, with gradients where they are on; the model stays clean.

    Args:
        text_tokens: T; they precede the image tokens.
        grid: rows and columns of the image tokens.
    """
    recording = Recording()

    def keep(query: Tensor, key: Tensor) -> None:
        recording.maps.append(attention_map(query, key, text_tokens, grid))

    with _heard(
        spread(transformer.transformer_blocks, transformer.single_transformer_blocks), keep
    ):
        yield recording


@contextmanager
def recorded_reference(
    transformer: DiffusersModel, text_tokens: int, grid: tuple[int, int]
) -> Iterator[Recording]:
    """Record the share [B] of attention that the made picture's tokens give to the reference's, as Kontext looks.

    Of the first two thirds of the single blocks (DeContext watches 26 of 38), means over heads and tokens.

    Args:
        grid: rows and columns of the made picture's tokens, which lie between text and reference.
    """
    recording = Recording()

    def keep(query: Tensor, key: Tensor) -> None:
        recording.shares.append(reference_share(query, key, text_tokens, grid))

    with _heard(looking(transformer.single_transformer_blocks), keep):
        yield recording


@contextmanager
def _heard(blocks: Sequence[nn.Module], keep: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    handles = [handle for block in blocks for handle in _listen(block.attn, keep)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def spread(double: Sequence[nn.Module], single: Sequence[nn.Module]) -> list[nn.Module]:
    """Four double and four single blocks, evenly spread over the depth."""
    chosen = []
    for blocks in (double, single):
        count = min(4, len(blocks))
        chosen += [blocks[(2 * i + 1) * len(blocks) // (2 * count)] for i in range(count)]
    return chosen


def looking(single: Sequence[nn.Module]) -> list[nn.Module]:
    """The single blocks in which a made picture looks at its reference."""
    return list(single)[: max(1, round(len(single) * 26 / 38))]


def _listen(attention: Any, keep: Callable[[Tensor, Tensor], None]) -> list[Any]:
    heard: dict[str, Tensor] = {}

    def note(name: str) -> Any:
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
        keep(*_rotated(query, key, rotary))

    names = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")
    norms = [(name, getattr(attention, name, None)) for name in names]
    handles = [norm.register_forward_hook(note(name)) for name, norm in norms if norm is not None]
    return [*handles, attention.register_forward_hook(finish, with_kwargs=True)]


def _rotated(query: Tensor, key: Tensor, rotary: Any) -> tuple[Tensor, Tensor]:
    if rotary is None:
        return query, key
    from diffusers.models.embeddings import apply_rotary_emb

    return tuple(apply_rotary_emb(x, rotary, sequence_dim=1) for x in (query, key))  # type: ignore[return-value]


def attention_map(
    query: Tensor, key: Tensor, text_tokens: int, grid: tuple[int, int]
) -> AttentionMap:
    """Attention of rotated queries and keys [B, tokens, heads, D], text first."""
    rows, columns = grid
    weights = _weights(query[:, text_tokens:], key).mean(1)
    cross, own = weights[..., :text_tokens], weights[..., text_tokens:]
    target = (min(rows, _KEYS), min(columns, _KEYS))
    squares = own.reshape(-1, 1, rows, columns)
    pooled = means(squares, target) * (rows * columns / (target[0] * target[1]))
    return AttentionMap(cross, pooled.reshape(*own.shape[:2], -1))


def reference_share(query: Tensor, key: Tensor, text_tokens: int, grid: tuple[int, int]) -> Tensor:
    """Share [B] of attention from the made picture's tokens to those behind it, of [B, tokens, heads, D]."""
    end = text_tokens + grid[0] * grid[1]
    return _weights(query[:, text_tokens:end], key)[..., end:].sum(-1).mean((1, 2))


def _weights(query: Tensor, key: Tensor) -> Tensor:
    """Attention [B, heads, Q, tokens] from at most 256 of the queries, evenly chosen."""
    stride = math.ceil(query.shape[1] / _QUERIES)
    asking = query[:, ::stride].float().movedim(2, 1)
    keys = key.float().movedim(2, 1)
    return (asking @ keys.transpose(2, 3) / math.sqrt(query.shape[-1])).softmax(-1)
