"""The whitelist: what an operator of the ONNX standard does, in PyTorch, differentiably.

A builder reads a node's attributes once and returns the function applied at every forward pass.
Everything that is not listed here is refused by name. Semantics: ONNX operator reference, opset 7
and later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .graph import Node, UnsupportedGraph

Apply = Callable[..., Tensor]
Operand = Tensor | None
OPERATORS: dict[str, Callable[[Node], Apply]] = {}
ALIASES = frozenset({"Identity", "Dropout", "Cast"})
"""Operators without effect on a float value at inference; the reader removes them."""


def builder(*names: str) -> Callable[[Callable[[Node], Apply]], Callable[[Node], Apply]]:
    """Enter a builder into the whitelist under these operator names."""

    def enter(build: Callable[[Node], Apply]) -> Callable[[Node], Apply]:
        OPERATORS.update(dict.fromkeys(names, build))
        return build

    return enter


def _pads(node: Node) -> tuple[int, int, int, int]:
    """top, left, bottom, right."""
    mode = node.text("auto_pad", "NOTSET")
    if mode not in {"NOTSET", "VALID"}:
        raise UnsupportedGraph(
            f"{node.op}: auto_pad={mode} is not supported; export with explicit pads."
        )
    pads = node.integers("pads", [0, 0, 0, 0])
    if len(pads) != 4:
        raise UnsupportedGraph(f"{node.op}: expected a 2-D operation, got pads {pads}.")
    return pads[0], pads[1], pads[2], pads[3]


def _padded(x: Tensor, pads: Sequence[int], value: float) -> Tensor:
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom), value=value) if any(pads) else x


@builder("Conv")
def conv(node: Node) -> Apply:
    top, left, bottom, right = pads = _pads(node)
    symmetric = (top, left) == (bottom, right)
    stride, dilation = node.integers("strides", [1, 1]), node.integers("dilations", [1, 1])
    groups = node.integer("group", 1)

    def apply(x: Tensor, weight: Tensor, bias: Operand = None) -> Tensor:
        inside = (top, left) if symmetric else (0, 0)
        x = x if symmetric else _padded(x, pads, 0.0)
        return F.conv2d(x, weight, bias, stride, inside, dilation, groups)

    return apply


@builder("BatchNormalization")
def batch_normalization(node: Node) -> Apply:
    if node.integer("training_mode", 0) or not node.integer("spatial", 1):
        raise UnsupportedGraph("BatchNormalization in training or non-spatial mode is refused.")
    epsilon = node.number("epsilon", 1e-5)

    def apply(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)

    return apply


@builder("PRelu")
def prelu(node: Node) -> Apply:
    def apply(x: Tensor, slope: Tensor) -> Tensor:
        a_channel = slope.ndim >= 3 and slope.numel() == slope.shape[-3]
        if slope.numel() == 1 or (x.ndim == 4 and a_channel) or (x.ndim == 2 and slope.ndim == 1):
            return F.prelu(x, slope.flatten())
        return torch.where(x > 0, x, slope * x)

    return apply


@builder("Relu")
def relu(node: Node) -> Apply:
    return torch.relu


@builder("LeakyRelu")
def leaky_relu(node: Node) -> Apply:
    slope = node.number("alpha", 0.01)
    return lambda x: F.leaky_relu(x, slope)


@builder("Sigmoid")
def sigmoid(node: Node) -> Apply:
    return torch.sigmoid


@builder("HardSigmoid")
def hard_sigmoid(node: Node) -> Apply:
    alpha, beta = node.number("alpha", 0.2), node.number("beta", 0.5)
    return lambda x: (alpha * x + beta).clamp(0, 1)


@builder("Clip")
def clip(node: Node) -> Apply:
    low = node.number("min", float("-inf"))
    high = node.number("max", float("inf"))

    def apply(x: Tensor, minimum: Operand = None, maximum: Operand = None) -> Tensor:
        x = x.clamp(low, high) if minimum is None else torch.maximum(x, minimum.to(x))
        return x if maximum is None else torch.minimum(x, maximum.to(x))

    return apply


@builder("Add", "Sub", "Mul", "Div", "Pow")
def arithmetic(node: Node) -> Apply:
    if "axis" in node.attributes or "broadcast" in node.attributes:
        raise UnsupportedGraph(f"{node.op} of an opset before 7 is refused; export it again.")
    functions: dict[str, Apply] = {
        "Add": torch.add,
        "Sub": torch.sub,
        "Mul": torch.mul,
        "Div": torch.div,
        "Pow": torch.pow,
    }
    return functions[node.op]


@builder("Sqrt")
def sqrt(node: Node) -> Apply:
    return torch.sqrt


@builder("MatMul")
def matmul(node: Node) -> Apply:
    return torch.matmul


@builder("Gemm")
def gemm(node: Node) -> Apply:
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    turn_a, turn_b = node.integer("transA", 0), node.integer("transB", 0)

    def apply(a: Tensor, b: Tensor, c: Operand = None) -> Tensor:
        out = (a.t() if turn_a else a) @ (b.t() if turn_b else b)
        out = out if alpha == 1.0 else alpha * out
        return out if c is None else out + (c if beta == 1.0 else beta * c)

    return apply


@builder("Flatten")
def flatten(node: Node) -> Apply:
    if node.integer("axis", 1) != 1:
        raise UnsupportedGraph("Flatten is supported from axis 1 only.")
    return lambda x: x.flatten(1)


@builder("Reshape")
def reshape(node: Node) -> Apply:
    whole_batch = bool(node.integer("whole_batch", 0))
    keep_zero = bool(node.integer("allowzero", 0))

    def apply(x: Tensor, shape: Tensor) -> Tensor:
        sizes = [int(size) for size in shape.tolist()]
        if not keep_zero:
            sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
        if whole_batch and sizes[0] == 1:
            sizes[0] = x.shape[0]
        return x.reshape(sizes)

    return apply


@builder("Transpose")
def transpose(node: Node) -> Apply:
    order = node.integers("perm", [])
    return lambda x: x.permute(order or list(range(x.ndim))[::-1])


@builder("Concat")
def concat(node: Node) -> Apply:
    axis = node.integer("axis", 0)
    return lambda *parts: torch.cat(parts, axis)


@builder("Shape")
def shape_of(node: Node) -> Apply:
    first, last = node.integer("start", 0), node.attributes.get("end")
    end = last if isinstance(last, int) else None
    return lambda x: torch.tensor(tuple(x.shape)[first:end], dtype=torch.int64)


@builder("Gather")
def gather(node: Node) -> Apply:
    axis = node.integer("axis", 0)

    def apply(x: Tensor, index: Tensor) -> Tensor:
        rows = x.index_select(axis, index.flatten() % x.shape[axis])
        return rows.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))

    return apply


def _axes(node: Node, given: Operand) -> list[int]:
    return [int(a) for a in given.tolist()] if given is not None else node.integers("axes", [])


@builder("Squeeze")
def squeeze(node: Node) -> Apply:
    def apply(x: Tensor, axes: Operand = None) -> Tensor:
        chosen = _axes(node, axes)
        if not chosen:
            raise UnsupportedGraph("Squeeze without axes is refused: it would drop a batch of one.")
        return x.squeeze(chosen)

    return apply


@builder("Unsqueeze")
def unsqueeze(node: Node) -> Apply:
    def apply(x: Tensor, axes: Operand = None) -> Tensor:
        chosen = _axes(node, axes)
        rank = x.ndim + len(chosen)
        for axis in sorted(a % rank for a in chosen):
            x = x.unsqueeze(axis)
        return x

    return apply


@builder("ReduceMean", "ReduceSum", "ReduceL2")
def reduce(node: Node) -> Apply:
    keep = bool(node.integer("keepdims", 1))
    functions: dict[str, Apply] = {
        "ReduceMean": torch.mean,
        "ReduceSum": torch.sum,
        "ReduceL2": torch.linalg.vector_norm,
    }
    function = functions[node.op]

    def apply(x: Tensor, axes: Operand = None) -> Tensor:
        chosen = _axes(node, axes) or list(range(x.ndim))
        return function(x, dim=chosen, keepdim=keep)

    return apply


@builder("LpNormalization")
def lp_normalization(node: Node) -> Apply:
    power, axis = node.integer("p", 2), node.integer("axis", -1)
    return lambda x: x / torch.linalg.vector_norm(x, power, dim=axis, keepdim=True)


@builder("GlobalAveragePool")
def global_average_pool(node: Node) -> Apply:
    return lambda x: x.mean((2, 3), keepdim=True)


def _window(node: Node) -> tuple[list[int], list[int]]:
    if node.integer("ceil_mode", 0) or node.integers("dilations", [1, 1]) != [1, 1]:
        raise UnsupportedGraph(f"{node.op} with ceil_mode or dilations is not supported.")
    return node.integers("kernel_shape", []), node.integers("strides", [1, 1])


@builder("MaxPool")
def max_pool(node: Node) -> Apply:
    (kernel, stride), pads = _window(node), _pads(node)
    return lambda x: F.max_pool2d(_padded(x, pads, float("-inf")), kernel, stride)


@builder("AveragePool")
def average_pool(node: Node) -> Apply:
    (kernel, stride), pads = _window(node), _pads(node)
    if any(pads) and not node.integer("count_include_pad", 0):
        raise UnsupportedGraph("AveragePool that leaves its padding out is not supported.")
    return lambda x: F.avg_pool2d(_padded(x, pads, 0.0), kernel, stride)


@builder("Pad")
def pad(node: Node) -> Apply:
    if node.text("mode", "constant") != "constant":
        raise UnsupportedGraph(f"Pad in mode {node.text('mode', '')} is not supported.")
    fixed, level = node.integers("pads", []), node.number("value", 0.0)

    def apply(x: Tensor, pads: Operand = None, value: Operand = None) -> Tensor:
        sizes = fixed if pads is None else [int(p) for p in pads.tolist()]
        pairs = zip(sizes[: x.ndim], sizes[x.ndim :], strict=True)
        flat = [size for pair in reversed(list(pairs)) for size in pair]
        return F.pad(x, flat, value=level if value is None else float(value))

    return apply
