"""What kinds of device can do: one table that decides, instead of conditions all over the engine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Abilities:
    """What PyTorch offers on a kind of device.

    Args:
        float64: holds and computes double precision.
        fp8: holds float8 tensors.
        grid_sample_gradient: has a backward kernel for ``grid_sample``.
        antialias_gradient: has a backward kernel for antialiased resizing.
        asynchronous: copies to and from page-locked memory while it computes, and orders them rightly.
    """

    float64: bool = True
    fp8: bool = True
    grid_sample_gradient: bool = True
    antialias_gradient: bool = True
    asynchronous: bool = False


_CAUTIOUS = Abilities(False, False, False, False)
_TABLE = {
    "cpu": Abilities(),
    "cuda": Abilities(asynchronous=True),  # NVIDIA, and AMD through ROCm
    "xpu": Abilities(float64=False),  # Arc
    "mps": _CAUTIOUS,  # Macs
    "privateuseone": _CAUTIOUS,  # DirectML
}


def abilities(device: torch.device | str) -> Abilities:
    """What a device's kind can do; an unknown kind is taken to lack everything that some kind lacks."""
    return _TABLE.get(torch.device(device).type, _CAUTIOUS)


def beside(network: nn.Module, given: Tensor) -> Tensor:
    """A tensor on the device of a network's weights."""
    weight = next(network.parameters(), None)
    return given if weight is None else given.to(weight.device)
