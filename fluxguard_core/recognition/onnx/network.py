"""A Graph as a torch.nn.Module whose parameters are frozen."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .graph import Graph, UnsupportedGraph
from .operators import OPERATORS, Apply


class GraphNetwork(nn.Module):
    """Runs a graph node by node: pictures [B,3,size,size] -> embeddings [B,D].

    Pixel values as `graph.input_range` says. Values are dropped after their last use, so memory
    without gradients stays at a few layers.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.input, self.output, self.size = graph.input, graph.output, graph.size
        self.at_once, self.channels_last = graph.at_once, graph.channels_last
        self._parameter_names: dict[str, str] = {}
        self._integers: dict[str, Tensor] = {}  # shapes and axes: they stay on the CPU
        for index, (name, tensor) in enumerate(graph.tensors.items()):
            if tensor.is_floating_point():
                self._parameter_names[name] = f"tensor_{index}"
                self.register_parameter(f"tensor_{index}", nn.Parameter(tensor, False))
            else:
                self._integers[name] = tensor
        self._steps = _steps(graph)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1) if self.channels_last else x
        return in_batches(self._run, x, self.at_once)

    def _run(self, x: Tensor) -> Tensor:
        values: dict[str, Tensor] = {self.input: x, **self._integers}
        for apply, inputs, output, finished in self._steps:
            operands = [self._read(values, name) for name in inputs]
            values[output] = apply(*operands)
            for name in finished:
                del values[name]
        return values[self.output].flatten(1)

    def _read(self, values: dict[str, Tensor], name: str) -> Tensor | None:
        if not name:
            return None
        if name in self._parameter_names:
            return self._parameters[self._parameter_names[name]]
        return values[name]


def in_batches(run: Callable[[Tensor], Tensor], x: Tensor, at_once: int) -> Tensor:
    """run(x) for a network that takes exactly `at_once` pictures (0: any number); the last ones repeat."""
    if not at_once or len(x) == at_once:
        return run(x)
    rows = []
    for part in x.split(at_once):
        lacking = at_once - len(part)
        whole = torch.cat((part, part[-1:].expand(lacking, *part.shape[1:]))) if lacking else part
        rows.append(run(whole)[: len(part)])
    return torch.cat(rows)


Step = tuple[Apply, tuple[str, ...], str, tuple[str, ...]]


def _steps(graph: Graph) -> list[Step]:
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    kept = {"", graph.output, *graph.tensors}
    steps: list[Step] = []
    for i, node in enumerate(graph.nodes):
        if node.op not in OPERATORS:
            raise UnsupportedGraph(f"Operator {node.op} is outside the whitelist.")
        finished = {name for name in node.inputs if name not in kept and last[name] == i}
        apply = OPERATORS[node.op](node)
        steps.append((apply, node.inputs, node.output, tuple(sorted(finished))))
    return steps
