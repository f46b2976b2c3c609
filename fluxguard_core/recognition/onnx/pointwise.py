"""Operators that act value by value, and those that reduce along axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .graph import Node, UnsupportedGraph
from .whitelist import Apply, Operand, axes_of, builder, together

_PLAIN: dict[str, Apply] = {
    "Abs": torch.abs,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tanh": torch.tanh,
}


@builder(*_PLAIN)
def plain(node: Node) -> Apply:
    return _PLAIN[node.op]


@builder("PRelu")
def prelu(node: Node) -> Apply:
    def apply(x: Tensor, slope: Tensor) -> Tensor:
        a_channel = slope.ndim >= 3 and slope.numel() == slope.shape[-3]
        if slope.numel() == 1 or (x.ndim == 4 and a_channel) or (x.ndim == 2 and slope.ndim == 1):
            return F.prelu(x, slope.flatten())
        return torch.where(x > 0, x, slope * x)

    return apply


@builder("LeakyRelu")
def leaky_relu(node: Node) -> Apply:
    slope = node.number("alpha", 0.01)
    return lambda x: F.leaky_relu(x, slope)


@builder("Elu")
def elu(node: Node) -> Apply:
    alpha = node.number("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


@builder("Selu")
def selu(node: Node) -> Apply:
    alpha, gamma = node.number("alpha", 1.67326319), node.number("gamma", 1.05070102)
    return lambda x: gamma * F.elu(x, alpha)


@builder("Gelu")
def gelu(node: Node) -> Apply:
    approximate = node.text("approximate", "none")
    return lambda x: F.gelu(x, approximate=approximate)


@builder("HardSigmoid")
def hard_sigmoid(node: Node) -> Apply:
    alpha, beta = node.number("alpha", 0.2), node.number("beta", 0.5)
    return lambda x: (alpha * x + beta).clamp(0, 1)


@builder("HardSwish")
def hard_swish(node: Node) -> Apply:
    return lambda x: x * (x / 6 + 0.5).clamp(0, 1)


@builder("Clip")
def clip(node: Node) -> Apply:
    low = node.number("min", float("-inf"))
    high = node.number("max", float("inf"))

    def apply(x: Tensor, minimum: Operand = None, maximum: Operand = None) -> Tensor:
        if minimum is None:
            x = x.clamp(low, high) if x.is_floating_point() else x
        else:
            x = _larger(x, minimum.to(x))
        return x if maximum is None else _smaller(x, maximum.to(x))

    return apply


@builder("Add", "Sub", "Mul", "Div", "Pow", "Mod")
def arithmetic(node: Node) -> Apply:
    if "axis" in node.attributes or "broadcast" in node.attributes:
        raise UnsupportedGraph(f"{node.op} of an opset before 7 is refused.", "Export it again.")
    functions: dict[str, Apply] = {
        "Add": torch.add,
        "Sub": torch.sub,
        "Mul": torch.mul,
        "Div": _divided,
        "Pow": torch.pow,
        "Mod": torch.fmod if node.integer("fmod", 0) else torch.remainder,
    }
    function = functions[node.op]
    return lambda a, b: function(*together(a, b))


def _divided(a: Tensor, b: Tensor) -> Tensor:
    whole = not a.is_floating_point() and not b.is_floating_point()
    return torch.div(a, b, rounding_mode="trunc") if whole else torch.div(a, b)


@builder("Min", "Max", "Sum", "Mean")
def of_several(node: Node) -> Apply:
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "Min": _smaller,
        "Max": _larger,
        "Sum": torch.add,
        "Mean": torch.add,
    }
    function = functions[node.op]

    def apply(*operands: Tensor) -> Tensor:
        first, *rest = together(*operands)
        for other in rest:
            first = function(first, other)
        return first / len(operands) if node.op == "Mean" else first

    return apply


def _larger(a: Tensor, b: Tensor) -> Tensor:
    """The larger of two; against a constant number, as ReLU6 is often written, the gradient takes a third."""
    if _constant(b) and b.ndim <= a.ndim:
        return a.clamp(min=b)
    return b.clamp(min=a) if _constant(a) and a.ndim <= b.ndim else torch.maximum(a, b)


def _smaller(a: Tensor, b: Tensor) -> Tensor:
    """The smaller of two."""
    if _constant(b) and b.ndim <= a.ndim:
        return a.clamp(max=b)
    return b.clamp(max=a) if _constant(a) and a.ndim <= b.ndim else torch.minimum(a, b)


def _constant(x: Tensor) -> bool:
    return x.numel() == 1 and not x.requires_grad


@builder("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor")
def comparison(node: Node) -> Apply:
    functions: dict[str, Apply] = {
        "Equal": torch.eq,
        "Less": torch.lt,
        "LessOrEqual": torch.le,
        "Greater": torch.gt,
        "GreaterOrEqual": torch.ge,
        "And": torch.logical_and,
        "Or": torch.logical_or,
        "Xor": torch.logical_xor,
    }
    function = functions[node.op]
    return lambda a, b: function(*together(a, b))


@builder("Not")
def negation(node: Node) -> Apply:
    return torch.logical_not


@builder("Where")
def where(node: Node) -> Apply:
    def apply(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
        condition, a, b = together(condition, a, b)
        return torch.where(condition.bool(), a, b)

    return apply


_TRUTH, _WHOLE = 9, frozenset({2, 3, 4, 5, 6, 7, 12, 13})
"""ONNX's numbers of the boolean type and of the integer types."""


@builder("Cast")
def cast(node: Node) -> Apply:
    kind = node.integer("to", 1)

    def apply(x: Tensor) -> Tensor:
        if kind == _TRUTH:
            return x.bool()
        if kind in _WHOLE:
            return x.trunc().long() if x.is_floating_point() else x.long()
        return x if x.is_floating_point() else x.float()

    return apply


@builder("CastLike")
def cast_like(node: Node) -> Apply:
    return lambda x, like: x if x.is_floating_point() and like.is_floating_point() else x.to(like)


@builder("ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin",
         "ReduceProd", "ReduceSumSquare")  # fmt: skip
def reduce(node: Node) -> Apply:
    keep = bool(node.integer("keepdims", 1))
    idle = bool(node.integer("noop_with_empty_axes", 0))
    functions: dict[str, Callable[[Tensor, list[int]], Tensor]] = {
        "ReduceMean": lambda x, dims: x.mean(dims, keepdim=keep),
        "ReduceSum": lambda x, dims: x.sum(dims, keepdim=keep),
        "ReduceL1": lambda x, dims: x.abs().sum(dims, keepdim=keep),
        "ReduceL2": lambda x, dims: torch.linalg.vector_norm(x, dim=dims, keepdim=keep),
        "ReduceMax": lambda x, dims: x.amax(dims, keepdim=keep),
        "ReduceMin": lambda x, dims: x.amin(dims, keepdim=keep),
        "ReduceProd": lambda x, dims: _product(x, dims, keep),
        "ReduceSumSquare": lambda x, dims: x.square().sum(dims, keepdim=keep),
    }
    function = functions[node.op]

    def apply(x: Tensor, axes: Operand = None) -> Tensor:
        chosen = axes_of(node, axes)
        if not chosen and idle:
            return x
        return function(x, chosen or list(range(x.ndim)))

    return apply


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted((d % x.ndim for d in dims), reverse=True):
        x = x.prod(dim, keepdim=keep)
    return x


@builder("Softmax", "LogSoftmax")
def softmax(node: Node) -> Apply:
    axis, function = node.integer("axis", -1), getattr(torch, _TORCH[node.op])
    if not node.integer("flat", 0):
        return lambda x: function(x, axis)
    # Before opset 13 everything from the axis on is one row.
    return lambda x: function(x.flatten(axis), -1).reshape(x.shape)


_TORCH = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}
