"""The whitelist of operators, and what its three rooms share.

A builder reads a node's attributes once and returns the function applied at every forward pass.
Numbers that shape the work (axes, pads, sizes) come as integer tensors on the CPU wherever the
network lies, and follow the pictures only where they meet them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .graph import Node, UnsupportedGraph

Apply = Callable[..., Tensor]
Operand = Tensor | None
OPERATORS: dict[str, Callable[[Node], Apply]] = {}
LARGEST = 2**25
"""Elements that a tensor made from a shape may have: far more than any recogniser needs."""


def builder(*names: str) -> Callable[[Callable[[Node], Apply]], Callable[[Node], Apply]]:
    """Enter a builder into the whitelist under these operator names."""

    def enter(build: Callable[[Node], Apply]) -> Callable[[Node], Apply]:
        OPERATORS.update(dict.fromkeys(names, build))
        return build

    return enter


def together(*operands: Operand) -> list[Tensor]:
    """The operands that are there, on the device of those that hold pictures."""
    present = [operand for operand in operands if operand is not None]
    device = next((x.device for x in present if x.device.type != "cpu"), torch.device("cpu"))
    return [x.to(device) for x in present]


def numbers(tensor: Tensor) -> list[int]:
    """An integer tensor of a shape, axes or pads as plain integers."""
    return [int(value) for value in tensor.flatten().tolist()]


def axes_of(node: Node, given: Operand) -> list[int]:
    """Axes from the operand that newer opsets have, else from the attribute of older ones."""
    return numbers(given) if given is not None else node.integers("axes", [])


def affordable(node: Node, sizes: Sequence[int]) -> list[int]:
    """The sizes of a tensor that is about to be made, unless it would fill the memory."""
    count = math.prod(sizes) if all(size >= 0 for size in sizes) else -1
    if not 0 <= count <= LARGEST:
        raise UnsupportedGraph(
            f"{node.op} makes a tensor of {list(sizes)[:6]}; the file is damaged."
        )
    return list(sizes)
