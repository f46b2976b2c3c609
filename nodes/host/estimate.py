"""How much memory gradients through a network will take, before they do."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

# Bytes kept by the heaviest known recogniser, IR-152, for each byte of its input.
_HEAVIEST = 754


def activation_bytes(network: nn.Module, shape: Sequence[int]) -> int:
    """Bytes that a network keeps for the way back from an input of ``shape``, in float32.

    Counted on tensors without memory, so nothing is computed; a network that cannot run so is taken to be heavy.
    """
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # or another tensor could come to stand in the same place

    def keep(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    named = (*network.named_parameters(), *network.named_buffers())
    with torch.inference_mode(False), torch.enable_grad():
        weights = {name: torch.empty_like(tensor, device="meta") for name, tensor in named}
        own = {tensor.untyped_storage()._cdata for tensor in weights.values()}
        given = torch.empty(tuple(shape), device="meta", requires_grad=True)
        try:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                torch.func.functional_call(network, weights, (given,))
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            logging.debug("FluxGuard could not count %s: %s", type(network).__name__, error)
            return _HEAVIEST * 4 * prod(shape)
    return sum(size for place, size in kept.items() if place not in own)
