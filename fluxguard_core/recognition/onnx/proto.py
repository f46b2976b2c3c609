"""An ONNX file as the onnx package reads it, and its parts as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import FluxGuardError
from ...weights.errors import ModelFileError
from .external import external_bytes
from .graph import Attribute, Node, UnsupportedGraph
from .operators import ALIASES, OPERATORS


def import_onnx() -> Any:
    """The onnx package, or an error that says how to get it."""
    try:
        import onnx
    except ImportError:
        raise FluxGuardError(
            "Reading an ONNX recogniser for the first time needs the onnx package.",
            "Run ‹install onnx›; afterwards the converted copy is used and it is not needed.",
        ) from None
    return onnx


def load_proto(path: Path) -> Any:
    """The model, its own functions written out; weights in other files are not read here."""
    onnx = import_onnx()
    try:
        model = onnx.load(str(path), load_external_data=False)
        if model.functions:
            from onnx.inliner import inline_local_functions

            model = inline_local_functions(model)
    except Exception as error:  # protobuf's DecodeError has a different home in each version
        text = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise ModelFileError(
            f"{path} is not a whole ONNX file: {text}.", "Fetch it again."
        ) from error
    if not model.graph.node:
        raise ModelFileError(f"{path} holds no graph; it is truncated or not an ONNX file.")
    if opset(model) < 7:
        raise UnsupportedGraph(
            f"{path.name} uses opset {opset(model)}; expected 7 or later.",
            "Convert it with onnx.version_converter.",
        )
    return model


def opset(model: Any) -> int:
    """Version of the ONNX operators that a model uses."""
    for entry in model.opset_import:
        if entry.domain in {"", "ai.onnx"}:
            return int(entry.version)
    return 0


def data_names(model: Any) -> list[str]:
    """Locations of the weights that lie outside the file, each once."""
    found = {
        entry.value: None
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return list(found)


def tensor(path: Path, proto: Any) -> Tensor:
    """A tensor's values: float32, int64 or bool."""
    onnx = import_onnx()
    try:
        if proto.data_location == onnx.TensorProto.EXTERNAL or proto.external_data:
            inside = onnx.TensorProto(name=proto.name, data_type=proto.data_type, dims=proto.dims)
            inside.raw_data = external_bytes(path, proto)
            proto = inside
        value = torch.from_numpy(onnx.numpy_helper.to_array(proto).copy())
    except FluxGuardError:
        raise
    except Exception as error:  # numpy's and protobuf's own
        raise ModelFileError(
            f"{path.name}: tensor {proto.name[:80]!r} cannot be read ({str(error)[:150]}).",
            "Fetch it again.",
        ) from error
    if value.is_complex():
        raise UnsupportedGraph(f"{path.name}: tensor {proto.name[:80]!r} holds complex numbers.")
    if value.dtype == torch.bool:
        return value
    return value.float() if value.is_floating_point() else value.long()


def nodes_of(path: Path, model: Any, constants: dict[str, Tensor]) -> list[Node]:
    """The graph's nodes with aliases followed; constants are entered into `constants`."""
    nodes: list[Node] = []
    renamed: dict[str, str] = {}
    version = opset(model)
    for proto in model.graph.node:
        inputs = tuple(renamed.get(name, name) for name in proto.input)
        if not proto.output:
            raise UnsupportedGraph(f"{path.name}: {proto.op_type[:40]} has no output.")
        attributes = {a.name: a for a in proto.attribute}
        if proto.op_type == "Constant":
            constants[proto.output[0]] = _constant(path, attributes)
        elif proto.op_type in ALIASES and inputs and _standard(proto):
            renamed[proto.output[0]] = inputs[0]
        else:
            nodes += _nodes(path, proto, inputs, attributes, version)
    for value in model.graph.output:
        if value.name in renamed:
            value.name = renamed[value.name]
    return nodes


def _standard(proto: Any) -> bool:
    return proto.domain in {"", "ai.onnx"}


def _nodes(
    path: Path, proto: Any, inputs: tuple[str, ...], attributes: dict[str, Any], version: int
) -> list[Node]:
    op = proto.op_type if _standard(proto) else f"{proto.domain}.{proto.op_type}"
    if op == "ConstantOfShape":
        values: dict[str, Attribute] = _filling(path, attributes)
    elif op not in OPERATORS:
        values = {}  # refused later, if the output needs it
    else:
        values = {name: _attribute(op, a) for name, a in attributes.items()}
    if op in {"Softmax", "LogSoftmax"} and version < 13:
        values = {"axis": 1, **values, "flat": 1}
    if op == "Split":
        parts = len(proto.output)
        return [
            Node(op, inputs, name, {**values, "part": i, "parts": parts})
            for i, name in enumerate(proto.output)
        ]
    return [Node(op, inputs, proto.output[0], values)]


def _filling(path: Path, attributes: dict[str, Any]) -> dict[str, Attribute]:
    if "value" not in attributes:
        return {"value": 0.0, "whole": 0}
    value = tensor(path, attributes["value"].t)
    if value.numel() != 1:
        raise UnsupportedGraph("ConstantOfShape: expected one value.")
    return {"value": float(value), "whole": int(not value.is_floating_point())}


def _constant(path: Path, attributes: dict[str, Any]) -> Tensor:
    name = next(iter(attributes), "")
    if len(attributes) != 1 or name not in {
        "value",
        "value_float",
        "value_floats",
        "value_int",
        "value_ints",
    }:
        raise UnsupportedGraph(f"Constant of kind {', '.join(attributes)} is not supported.")
    if name == "value":
        return tensor(path, attributes[name].t)
    value = import_onnx().helper.get_attribute_value(attributes[name])
    return torch.tensor(value, dtype=torch.float32 if "float" in name else torch.int64)


def _attribute(op: str, proto: Any) -> Attribute:
    try:
        value = import_onnx().helper.get_attribute_value(proto)
    except ValueError:
        value = None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(v, (int, float)) for v in value):
        return list(value)
    raise UnsupportedGraph(f"{op}: attribute {proto.name[:40]} holds a graph or tensor; refused.")
