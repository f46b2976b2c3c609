"""LoRAs beside the miniature's transformer, one for each part of a batch: hooks, gone at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_mlp", "proj_out", "net.0.proj", "net.2")


def block_layers(transformer: Any) -> list[nn.Linear]:
    """The linear layers in a diffusers FLUX's blocks that see tokens, each given [B, T, in]."""
    return [
        module
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear)
        and "transformer_blocks." in name
        and name.endswith(_TARGETS)
    ]


def fresh_loras(
    layers: Sequence[nn.Linear], groups: int, rank: int, seed: int = 0
) -> list[nn.Parameter]:
    """Down [groups, in, rank] and up [groups, rank, out] of every layer in turn; all equal, without effect at first."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for layer in layers:
        one = torch.randn(layer.in_features, rank, generator=generator) / layer.in_features**0.5
        made.append(nn.Parameter(one.expand(groups, -1, -1).clone()))
        made.append(nn.Parameter(torch.zeros(groups, rank, layer.out_features)))
    return made


@contextmanager
def beside(layers: Sequence[nn.Linear], loras: Sequence[Tensor]) -> Iterator[None]:
    """Let ``fresh_loras`` of these layers answer in here: the g-th of G answers to the g-th part of the batch."""
    pairs = zip(loras[::2], loras[1::2], strict=True)
    handles = [
        layer.register_forward_hook(partial(_add, down, up))
        for layer, (down, up) in zip(layers, pairs, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add(
    down: Tensor, up: Tensor, module: nn.Module, given: tuple[Tensor, ...], answer: Tensor
) -> Tensor:
    del module
    parts = given[0].unflatten(0, (len(down), -1)).flatten(1, 2)
    # Autocast would remember its first copy of weights that are still being trained.
    with torch.autocast(parts.device.type, enabled=False):
        added = parts.to(answer) @ down.to(answer) @ up.to(answer)
    return answer + added.reshape(answer.shape)
