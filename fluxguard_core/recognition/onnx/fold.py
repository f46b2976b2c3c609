"""What a graph computes from shapes alone is worked out once, before the operators are judged.

Exporters write the padding of a convolution, or the flattening before a product, as dozens of
nodes on shapes. Here the graph runs on pictures without values, for two batch sizes: whatever
comes out the same and depends on no pixel is a constant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .graph import Node, UnsupportedGraph
from .operators import OPERATORS

ACTIVATIONS = 10**8
"""Values that all layers together may have for one picture: a ResNet of 100 layers has a fifth."""
CONSTANTS = 2**27
"""Values that all tensors computed from shapes together may have."""


@dataclass(frozen=True, eq=False)
class Traced:
    """A run on pictures without values: what depends on pixels (shapes), and what does not (values)."""

    shapes: dict[str, tuple[int, ...]]
    values: dict[str, Tensor]


def trace(
    nodes: Sequence[Node], constants: dict[str, Tensor], name: str, shape: Sequence[int]
) -> Traced:
    """Run nodes on the shape of a batch; UnsupportedGraph names the node that cannot."""
    picture = torch.empty(tuple(shape), device="meta")
    known: dict[str, Tensor] = {name: picture}
    shapes: dict[str, tuple[int, ...]] = {name: tuple(shape)}
    values: dict[str, Tensor] = {}
    spent = [0, 0]
    for node in nodes:
        operands = [known.get(n, constants.get(n)) if n else None for n in node.inputs]
        result = _run(node, operands)
        known[node.output] = result
        depends = result.device.type == "meta"
        spent[depends] += result.numel()
        if spent[True] > ACTIVATIONS * shape[0] or spent[False] > CONSTANTS:
            raise UnsupportedGraph(
                f"{node.op} brings the graph to more values than any recogniser has; the file is damaged."
            )
        if depends:
            shapes[node.output] = tuple(result.shape)
        else:
            values[node.output] = result
    return Traced(shapes, values)


def _run(node: Node, operands: list[Tensor | None]) -> Tensor:
    missing = [n for n, o in zip(node.inputs, operands, strict=True) if n and o is None]
    if missing:
        raise UnsupportedGraph(
            f"{node.op} reads {missing[0][:80]!r}, which no supported output provides."
        )
    if any(o is not None and o.device.type == "meta" for o in operands):
        operands = [_without_values(o) for o in operands]
    try:
        with torch.no_grad():
            return OPERATORS[node.op](node)(*operands)
    except UnsupportedGraph:
        raise
    except Exception as error:  # whatever a foreign graph makes of our shapes
        text = str(error).splitlines()
        raise UnsupportedGraph(
            f"{node.op} does not run: {text[0][:200] if text else type(error).__name__}"
        ) from error


def _without_values(operand: Tensor | None) -> Tensor | None:
    whole = operand is None or not operand.is_floating_point()
    return operand if whole or operand is None else operand.to("meta")


def fold(
    nodes: Sequence[Node], constants: dict[str, Tensor], traces: Sequence[Traced]
) -> tuple[list[Node], dict[str, Tensor]]:
    """Nodes without those whose value is the same in all traces, and the constants with them."""
    first, *rest = (trace.values for trace in traces)
    settled = {
        name: value.clone()  # a view would be kept with all that it is a view of
        for name, value in first.items()
        if all(name in other and _same(value, other[name]) for other in rest)
    }
    return [node for node in nodes if node.output not in settled], {**constants, **settled}


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def needed(nodes: Iterable[Node], output: str) -> list[Node]:
    """The nodes that the output depends on, in order."""
    wanted, kept = {output}, []
    for node in reversed(list(nodes)):
        if node.output in wanted:
            wanted.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def settle(node: Node, constants: dict[str, Tensor]) -> Node:
    """The node with plain numbers in the place of operands that would have to be read on the card."""
    if node.op != "Pad" or len(node.inputs) < 3 or not node.inputs[2]:
        return node
    level = constants.get(node.inputs[2])
    if level is None or level.numel() != 1:
        raise UnsupportedGraph("Pad with a level that is no constant is not supported.")
    inputs = (*node.inputs[:2], "", *node.inputs[3:])
    return replace(node, inputs=inputs, attributes={**node.attributes, "value": float(level)})
