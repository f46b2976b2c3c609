"""ONNX file to Graph: aliases removed, constants folded, everything foreign refused by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import FluxGuardError
from ...weights.errors import ModelFileError
from .graph import Attribute, Graph, Node, UnsupportedGraph
from .operators import ALIASES, OPERATORS


def read_onnx(path: Path, *, size: int = 112) -> Graph:
    """The graph of a face recogniser; `size` is used where the file leaves the input size open.

    UnsupportedGraph names what the converter refuses: operators outside the whitelist, several
    inputs or outputs, tensors outside the file, float16 inputs.
    """
    proto = _load(path).graph
    constants = {tensor.name: _tensor(tensor) for tensor in proto.initializer}
    _check_operators(proto.node)
    name, side, one_picture = _input(proto, constants, size)
    if len(proto.output) != 1:
        names = [value.name for value in proto.output]
        raise UnsupportedGraph(
            f"{path.name} has {len(names)} outputs ({', '.join(names)}); expected the embedding only."
        )
    nodes, renamed = _plain_nodes(proto.node, constants)
    output = renamed.get(proto.output[0].name, proto.output[0].name)
    nodes = _needed(nodes, output)
    _check_flow(path, nodes, constants, name, output)
    fixed_batch = one_picture or any(_makes_one_row(node, constants) for node in nodes)
    if fixed_batch:
        nodes = [_for_any_batch(node) for node in nodes]
    used = {read for node in nodes for read in node.inputs}
    tensors = {key: value for key, value in constants.items() if key in used}
    return Graph(name, output, side, fixed_batch, tuple(nodes), tensors)


def import_onnx() -> Any:
    """The onnx package, or an error that says how to get it."""
    try:
        import onnx
    except ImportError:
        raise FluxGuardError(
            "Reading an ONNX recogniser for the first time needs the onnx package: "
            "‹install onnx› (afterwards the converted copy is used and it is not needed)."
        ) from None
    return onnx


def _load(path: Path) -> Any:
    onnx = import_onnx()
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has a different home in each version
        raise ModelFileError(
            f"{path} is not a whole ONNX file: {str(error).splitlines()[0][:200]}. Fetch it again."
        ) from error
    if not model.graph.node:
        raise ModelFileError(f"{path} holds no graph; it is truncated or not an ONNX file.")
    for entry in model.opset_import:
        if entry.domain in {"", "ai.onnx"} and entry.version < 7:
            raise UnsupportedGraph(
                f"{path.name} uses opset {entry.version}; expected 7 or later. Convert it with "
                "onnx.version_converter."
            )
    return model


def _check_operators(nodes: Iterable[Any]) -> None:
    known = OPERATORS.keys() | ALIASES | {"Constant"}
    foreign = {
        f"{node.domain}.{node.op_type}" if node.domain not in {"", "ai.onnx"} else node.op_type
        for node in nodes
        if node.op_type not in known or node.domain not in {"", "ai.onnx"}
    }
    if foreign:
        raise UnsupportedGraph(
            f"The graph uses operators outside the whitelist: {', '.join(sorted(foreign))}. "
            f"Supported are {', '.join(sorted(OPERATORS))}. Use the PyTorch original of this model."
        )


def _input(proto: Any, constants: dict[str, Tensor], size: int) -> tuple[str, int, bool]:
    inputs = [value for value in proto.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise UnsupportedGraph(f"The graph has inputs {names or 'none'}; expected one picture.")
    kind = inputs[0].type.tensor_type
    if kind.elem_type != import_onnx().TensorProto.FLOAT:
        raise UnsupportedGraph("The graph's input is not float32; use the float32 version.")
    dims = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in kind.shape.dim]
    if len(dims) != 4 or dims[1] not in {0, 3} or dims[2] != dims[3]:
        raise UnsupportedGraph(
            f"The graph's input is {dims} (0 = open); expected [N, 3, size, size]."
        )
    return inputs[0].name, (dims[2] if dims[2] > 0 else size), dims[0] == 1


def _plain_nodes(
    protos: Iterable[Any], constants: dict[str, Tensor]
) -> tuple[list[Node], dict[str, str]]:
    nodes: list[Node] = []
    renamed: dict[str, str] = {}
    for proto in protos:
        inputs = tuple(renamed.get(name, name) for name in proto.input)
        attributes = {a.name: a for a in proto.attribute}
        if proto.op_type == "Constant":
            constants[proto.output[0]] = _constant(attributes)
            continue
        if proto.op_type in ALIASES:
            renamed[proto.output[0]] = inputs[0]
            continue
        values = {name: _attribute(proto.op_type, a) for name, a in attributes.items()}
        node = Node(proto.op_type, inputs, proto.output[0], values)
        if all(name in constants for name in inputs if name):
            operands = [constants[name] if name else None for name in inputs]
            constants[node.output] = OPERATORS[node.op](node)(*operands)
            continue
        nodes.append(node)
    return nodes, renamed


def _makes_one_row(node: Node, constants: dict[str, Tensor]) -> bool:
    # Some exports leave the batch open at the input and still reshape to one row inside.
    shape = constants.get(node.inputs[1]) if node.op == "Reshape" else None
    return shape is not None and shape.numel() > 0 and int(shape[0]) == 1


def _for_any_batch(node: Node) -> Node:
    if node.op != "Reshape":
        return node
    return Node(node.op, node.inputs, node.output, {**node.attributes, "whole_batch": 1})


def _needed(nodes: list[Node], output: str) -> list[Node]:
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if node.output in wanted:
            wanted.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def _check_flow(
    path: Path, nodes: list[Node], constants: dict[str, Tensor], name: str, output: str
) -> None:
    ready = {"", name, *constants}
    for node in nodes:
        lacking = [read for read in node.inputs if read not in ready]
        if lacking:
            raise UnsupportedGraph(
                f"{path.name}: {node.op} reads {lacking[0]!r}, which no supported output provides."
            )
        ready.add(node.output)
    if output not in ready or not nodes:
        raise UnsupportedGraph(f"{path.name}: the output {output!r} does not come from the input.")


def _tensor(proto: Any) -> Tensor:
    onnx = import_onnx()
    if proto.data_location == onnx.TensorProto.EXTERNAL or proto.external_data:
        raise UnsupportedGraph(
            f"Tensor {proto.name!r} lies outside the file; expected one self-contained file. Save "
            "it again with its data inside."
        )
    value = torch.from_numpy(onnx.numpy_helper.to_array(proto).copy())
    return value.float() if value.is_floating_point() else value.long()


def _constant(attributes: dict[str, Any]) -> Tensor:
    (name, attribute), *rest = attributes.items()
    if rest or name not in {"value", "value_float", "value_floats", "value_int", "value_ints"}:
        raise UnsupportedGraph(f"Constant of kind {', '.join(attributes)} is not supported.")
    if name == "value":
        return _tensor(attribute.t)
    value = import_onnx().helper.get_attribute_value(attribute)
    return torch.tensor(value, dtype=torch.float32 if "float" in name else torch.int64)


def _attribute(op: str, proto: Any) -> Attribute:
    value = import_onnx().helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(v, (int, float)) for v in value):
        return list(value)
    raise UnsupportedGraph(f"{op}: attribute {proto.name} holds a graph or tensor; refused.")
