"""A recogniser's graph as plain values: nodes, tensors, input convention.

What `reader` makes of an ONNX file and `cache` stores; knows neither the onnx package nor PyTorch
modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...errors import FluxGuardError

Attribute = int | float | str | list[int] | list[float]
InputRange = Literal["symmetric", "unit", "bytes"]


class UnsupportedGraph(FluxGuardError):
    """A graph that the converter refuses, with the reason."""


@dataclass(frozen=True)
class Node:
    """One operation: operator name, names of inputs ("" where absent) and of its one output."""

    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Attribute]

    def integers(self, name: str, default: list[int]) -> list[int]:
        value = self.attributes.get(name, default)
        if not isinstance(value, list):
            raise UnsupportedGraph(f"{self.op}: attribute {name} is {value!r}, expected integers.")
        return [int(item) for item in value]

    def integer(self, name: str, default: int) -> int:
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise UnsupportedGraph(
                f"{self.op}: attribute {name} is {value!r}, expected an integer."
            )
        return value

    def number(self, name: str, default: float) -> float:
        value = self.attributes.get(name, default)
        if not isinstance(value, (int, float)):
            raise UnsupportedGraph(f"{self.op}: attribute {name} is {value!r}, expected a number.")
        return float(value)

    def text(self, name: str, default: str) -> str:
        return str(self.attributes.get(name, default))


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in order of execution and the tensors they read.

    `size` is the side of the square input. `batch` is the number of pictures that the file was
    exported for, 0 where it is open; `freed` says that the graph takes any number all the same.
    `shape` is what comes out for one picture. `channels_last` graphs read [N,size,size,3].
    """

    input: str
    output: str
    size: int
    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]
    batch: int = 0
    freed: bool = True
    shape: tuple[int, ...] = ()
    channels_last: bool = False

    @property
    def at_once(self) -> int:
        """Pictures that the network must be fed together; 0 for any number."""
        return 0 if self.freed else self.batch


def input_range(graph: Graph) -> InputRange:
    """Which pixel values the graph wants, told from the scaling built into its first nodes.

    With a subtraction and scaling that bring 0..255 near [-1, 1] it wants raw bytes (insightface's
    rule, which goes by the node names Sub and Mul), with one that does so for 0..1 it wants that;
    without either it wants (x - 127.5) / 127.5.
    """
    scale, shift = _leading_affine(graph)
    if (scale, shift) == (1.0, 0.0):
        return "symmetric"
    if abs(shift) >= 16 or max(abs(shift), abs(255 * scale + shift)) <= 8:
        return "bytes"
    return "unit" if shift < 0 and abs(scale + shift) <= 8 else "symmetric"


def _leading_affine(graph: Graph) -> tuple[float, float]:
    scale, shift, current = 1.0, 0.0, graph.input
    for node in graph.nodes[:8]:
        if node.op == "Transpose" and current in node.inputs:
            current = node.output
            continue
        constants = [graph.tensors[name] for name in node.inputs if name in graph.tensors]
        if node.op not in {"Sub", "Add", "Mul", "Div"} or len(constants) != 1:
            break
        if current not in node.inputs or (node.op in {"Sub", "Div"} and node.inputs[0] != current):
            break
        value = float(constants[0].float().mean())
        if node.op in {"Mul", "Div"}:
            factor = value if node.op == "Mul" else 1.0 / value
            scale, shift = scale * factor, shift * factor
        else:
            shift += value if node.op == "Add" else -value
        current = node.output
    return scale, shift
