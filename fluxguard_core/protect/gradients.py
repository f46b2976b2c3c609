"""Gradients inside callers that have switched them off (ComfyUI runs nodes in inference mode)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def gradients() -> Iterator[None]:
    """Autograd on, whatever the caller set. Tensors from outside must be cloned in here first."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def differentiable(module: nn.Module) -> nn.Module:
    """A module that gradients can pass through; its own parameters need none.

    Weights loaded in inference mode cannot be saved for a backward pass. Such a module is copied, so
    that the caller's stays as it is; any other is returned unchanged.
    """
    tensors = [*module.parameters(), *module.buffers()]
    if not any(tensor.is_inference() for tensor in tensors):
        return module
    with torch.inference_mode(False):
        private = copy.deepcopy(module)
        for owner in private.modules():
            for name, parameter in list(owner.named_parameters(recurse=False)):
                owner.register_parameter(name, nn.Parameter(parameter.clone(), requires_grad=False))
            for name, buffer in list(owner.named_buffers(recurse=False)):
                persistent = name not in owner._non_persistent_buffers_set
                owner.register_buffer(name, buffer.clone(), persistent=persistent)
    return private
