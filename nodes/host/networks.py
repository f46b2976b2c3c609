"""Networks that gradients pass through, in memory that the host counts.

The host moves weights inside inference mode, in parts, and through buffers that the next layer overwrites:
none of it survives a backward pass. So these are private copies, ordinary tensors, moved whole.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import comfy.model_management as memory
import comfy.model_patcher
import torch
from torch import nn

from .progress import ordinary_tensors

_HANDLE = "fluxguard_handle"
# What the host's patchers leave on modules: memory handles, which free their memory when they die,
# and how the weights are cast at present.
_HOST_STATE = re.compile(
    "_v(_.*)?|_pin.*|_prefetch|dynamic_.*|.*lowvram.*|.*comfy_cast_weights|comfy_(force|patched)_.*"
    "|(weight|bias)_function|seed_key|model_.*_memory|current_weight_patches_uuid|device"
)


def private_copy(module: nn.Module) -> nn.Module:
    """The same network in ordinary tensors of its own, without the host's handles; the original stays.

    Weights are gathered from wherever the host keeps them now, in the type that they are computed in.
    """
    place = memory.unet_offload_device()
    memo: dict[int, Any] = {}
    with ordinary_tensors():
        for owner in module.modules():
            for name, tensor in (*owner._parameters.items(), *owner._buffers.items()):
                if tensor is not None and id(tensor) not in memo:
                    kind = getattr(owner, f"{name}_comfy_model_dtype", None) or tensor.dtype
                    own = tensor.detach().to(place, kind, copy=True)
                    parameter = isinstance(tensor, nn.Parameter)
                    memo[id(tensor)] = nn.Parameter(own, False) if parameter else own
            for state in _host_state(owner).values():
                if hasattr(state, "__dict__") or isinstance(state, (dict, list, tuple)):
                    memo[id(state)] = ()
        twin = copy.deepcopy(module, memo)
    for owner in twin.modules():
        for name in _host_state(owner):
            del vars(owner)[name]
    return twin.eval()


def _host_state(module: nn.Module) -> dict[str, Any]:
    return {name: state for name, state in vars(module).items() if _HOST_STATE.fullmatch(name)}


class WholeNetwork(comfy.model_patcher.ModelPatcher):
    """The host's handle on a network that is on the device whole or not at all."""

    def partially_load(
        self, device_to: torch.device, extra_memory: float = 0, force_patch_weights: bool = False
    ) -> int:
        """Bring all of it; returns the bytes that came."""
        before = self.loaded_size()
        self._move(device_to, self.model_size())
        return int(self.loaded_size() - before)

    def partially_unload(
        self, device_to: torch.device, memory_to_free: float = 0, force_patch_weights: bool = False
    ) -> int:
        """Take all of it away; returns the bytes that went."""
        before = self.loaded_size()
        self._move(device_to, 0)
        return int(before)

    def detach(self, unpatch_all: bool = True) -> nn.Module:
        """Let the network go, off the device unless another handle takes it over."""
        if unpatch_all:
            self._move(self.offload_device, 0)
        return self.model

    def _move(self, device: torch.device, loaded: int) -> None:
        with ordinary_tensors():
            self.model.to(device)
        self.model.device = device
        self.model.model_loaded_weight_memory = loaded


def managed(network: nn.Module, device: torch.device | None = None) -> Any:
    """The host's handle on a network of ours, so that its memory is counted and taken back.

    The first call decides where the network computes: on ``device``, or where the host does.
    """
    if _HANDLE not in vars(network):
        handle = WholeNetwork(
            network,
            load_device=memory.get_torch_device() if device is None else device,
            offload_device=memory.unet_offload_device(),
            size=memory.module_size(network),
        )
        # Kept on the network itself: a table of handles would keep every network alive.
        vars(network)[_HANDLE] = handle
    return vars(network)[_HANDLE]


def load_together(networks: Sequence[nn.Module], working_bytes: int = 0) -> None:
    """Bring networks to the device, with room to work."""
    memory.load_models_gpu([managed(n) for n in networks], memory_required=working_bytes)


def working_device() -> torch.device:
    """Where the host computes."""
    return memory.get_torch_device()
