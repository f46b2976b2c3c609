"""ONNX file to Graph: constants folded, dead nodes dropped, everything foreign refused by name."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from .fold import Traced, fold, needed, settle, trace
from .graph import Graph, Node, UnsupportedGraph
from .operators import OPERATORS
from .proto import import_onnx, load_proto, nodes_of, tensor

SIDES = range(8, 513)
LEAST = 32
"""Values that an embedding has at least: fewer are classes, an age, a pose."""


def read_onnx(path: Path, *, size: int = 112, freed: bool = True) -> Graph:
    """The graph of a face recogniser; `size` is used where the file leaves the input size open.

    A file exported for a fixed number of pictures is freed from it where that works and `freed`
    allows it; so is one that leaves the number open and still reshapes to one row inside.
    UnsupportedGraph names what the converter refuses: operators outside the
    whitelist that the embedding needs, several inputs or outputs, and what is no embedding.
    """
    model = load_proto(path)
    proto = model.graph
    constants = {item.name: tensor(path, item) for item in proto.initializer}
    entrance = _entrance(proto, constants, size)
    nodes = nodes_of(path, model, constants)
    names = [value.name for value in proto.output]
    draft = _Draft(path, entrance, nodes, constants, names)
    _check_operators(needed_of(draft))
    if not entrance.batch:
        try:
            return _graph(draft, freed=True)
        except UnsupportedGraph as error:
            first = error
        try:
            return _for_a_fixed_batch(replace(draft, entrance=replace(entrance, batch=1)), freed)
        except UnsupportedGraph:
            raise first from None
    return _for_a_fixed_batch(draft, freed)


def _for_a_fixed_batch(draft: _Draft, freed: bool) -> Graph:
    if freed:
        with contextlib.suppress(UnsupportedGraph):
            return _graph(draft, freed=True)
    return _graph(draft, freed=False)


@dataclass(frozen=True)
class _Entrance:
    """The graph's input: its name, the picture's side, the fixed batch (0: open), the layout."""

    name: str
    side: int
    batch: int
    channels_last: bool

    def shape(self, batch: int) -> tuple[int, ...]:
        if self.channels_last:
            return (batch, self.side, self.side, 3)
        return (batch, 3, self.side, self.side)


@dataclass(frozen=True, eq=False)
class _Draft:
    path: Path
    entrance: _Entrance
    nodes: list[Node]
    constants: dict[str, Tensor]
    outputs: list[str]


def _graph(draft: _Draft, *, freed: bool) -> Graph:
    entrance, constants = draft.entrance, draft.constants
    nodes = needed_of(draft)
    if freed and entrance.batch:
        nodes = [_for_any_batch(node, entrance.batch) for node in nodes]
    batches = (2, 3) if freed else (entrance.batch,)
    try:
        nodes = [settle(node, constants) for node in nodes]
        traces = [trace(nodes, constants, entrance.name, entrance.shape(n)) for n in batches]
    except UnsupportedGraph as error:
        raise UnsupportedGraph(f"{draft.path.name}: {error.message}", error.remedy) from error
    output = _output(draft, traces[0])
    if any(t.shapes[output][:1] != (n,) for t, n in zip(traces, batches, strict=True)):
        raise UnsupportedGraph(
            f"{draft.path.name} gives {list(traces[0].shapes[output])} for {batches[0]} pictures; "
            "expected a row a picture."
        )
    nodes, tensors = fold(nodes, constants, traces)
    nodes = needed(nodes, output)
    used = {read for node in nodes for read in node.inputs}
    return Graph(
        entrance.name,
        output,
        entrance.side,
        tuple(nodes),
        {key: value for key, value in tensors.items() if key in used},
        entrance.batch,
        freed,
        traces[0].shapes[output][1:],
        entrance.channels_last,
    )


def needed_of(draft: _Draft) -> list[Node]:
    """The nodes that any output depends on."""
    kept = {id(node) for name in draft.outputs for node in needed(draft.nodes, name)}
    return [node for node in draft.nodes if id(node) in kept]


def _check_operators(nodes: Sequence[Node]) -> None:
    foreign = sorted({node.op[:60] for node in nodes} - OPERATORS.keys())
    if foreign:
        raise UnsupportedGraph(
            f"The graph uses operators outside the whitelist: {', '.join(foreign)}. "
            f"Supported are {', '.join(sorted(OPERATORS))}.",
            "Use the PyTorch original of this model.",
        )


def _entrance(proto: Any, constants: dict[str, Tensor], size: int) -> _Entrance:
    inputs = [value for value in proto.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name[:40] for value in inputs[:8])
        raise UnsupportedGraph(f"The graph has inputs {names or 'none'}; expected one picture.")
    kind = inputs[0].type.tensor_type
    if kind.elem_type != import_onnx().TensorProto.FLOAT:
        raise UnsupportedGraph("The graph's input is not float32.", "Use the float32 version.")
    dims = [max(0, d.dim_value) if d.HasField("dim_value") else 0 for d in kind.shape.dim]
    last = len(dims) == 4 and dims[3] == 3 and dims[1] == dims[2] and dims[1] != 3
    plain = len(dims) == 4 and dims[1] in {0, 3} and dims[2] == dims[3]
    if not last and not plain:
        grey = len(dims) == 4 and 1 in (dims[1], dims[3])
        raise UnsupportedGraph(
            f"The graph's input is {dims} (0 = open); expected [N, 3, size, size]. "
            + (
                "It reads grey pictures, so it is no recogniser of colour portraits."
                if grey
                else ""
            )
        )
    side = dims[1 if last else 2] or size
    if side not in SIDES or dims[0] > 64:
        raise UnsupportedGraph(
            f"The graph's input is {dims}; expected 1 to 64 pictures of {SIDES[0]} to {SIDES[-1]} pixels."
        )
    return _Entrance(inputs[0].name, side, dims[0], last)


def _output(draft: _Draft, traced: Traced) -> str:
    """The output that may be an embedding; a second one may give one value a picture (its norm)."""
    found, shown = [], []
    for name in dict.fromkeys(draft.outputs):
        shape = traced.shapes.get(name)
        if shape is None:
            raise UnsupportedGraph(
                f"{draft.path.name}: the output {name[:80]!r} does not come from the input."
            )
        shown.append(f"{name[:40]} {list(shape[1:])}")
        if len(draft.outputs) == 1 or math.prod(shape[1:]) != 1:
            found.append(name)
    if len(found) != 1:
        raise UnsupportedGraph(
            f"{draft.path.name} has {len(draft.outputs)} outputs ({', '.join(shown[:8])}); expected the "
            "embedding only."
        )
    return found[0]


def check_embedding(path: Path, graph: Graph) -> None:
    """UnsupportedGraph for a graph that gives anything but one row of enough values a picture."""
    row = [size for size in graph.shape if size != 1]
    if len(row) != 1 or row[0] < LEAST:
        raise UnsupportedGraph(
            f"{path.name} is no face recogniser: it gives {list(graph.shape)} a picture, and an "
            f"embedding is one row of {LEAST} values or more. A classifier, a detector or a landmark "
            "network cannot tell people apart."
        )
    if graph.nodes[-1].op in {"Softmax", "LogSoftmax", "Sigmoid"}:
        raise UnsupportedGraph(
            f"{path.name} is no face recogniser: it ends in {graph.nodes[-1].op}, so it gives the "
            "probabilities of classes, not an embedding."
        )


def _for_any_batch(node: Node, batch: int) -> Node:
    if node.op != "Reshape":
        return node
    return replace(node, attributes={**node.attributes, "batch": batch})
