"""Operators with weights or windows: convolution, normalisation, products, pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .graph import Node, UnsupportedGraph
from .whitelist import Apply, Operand, affordable, builder, together

Pads = tuple[int, int, int, int]


def _pads(node: Node) -> Pads | None:
    """top, left, bottom, right; None where they follow from the picture's size (SAME_UPPER)."""
    mode = node.text("auto_pad", "NOTSET")
    if mode == "SAME_UPPER":
        return None
    if mode not in {"NOTSET", "VALID"}:
        raise UnsupportedGraph(
            f"{node.op}: auto_pad={mode} is not supported.", "Export with explicit pads."
        )
    pads = node.integers("pads", [0, 0, 0, 0])
    if len(pads) != 4 or any(not 0 <= pad <= 512 for pad in pads):
        raise UnsupportedGraph(f"{node.op}: expected a 2-D operation, got pads {pads}.")
    return pads[0], pads[1], pads[2], pads[3]


def _settled(pads: Pads | None, x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Pads:
    if pads is not None:
        return pads
    whole = [
        max(0, (-(-side // step) - 1) * step + window - side)
        for side, window, step in zip(x.shape[-2:], kernel, stride, strict=True)
    ]
    top, left = whole[0] // 2, whole[1] // 2
    return top, left, whole[0] - top, whole[1] - left


def _padded(x: Tensor, pads: Sequence[int], value: float) -> Tensor:
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom), value=value) if any(pads) else x


def _pair(node: Node, name: str) -> list[int]:
    value = node.integers(name, [1, 1])
    if len(value) != 2 or any(not 1 <= item <= 512 for item in value):
        raise UnsupportedGraph(f"{node.op}: {name} is {value}, expected two sizes of a 2-D window.")
    return value


@builder("Conv")
def conv(node: Node) -> Apply:
    known, stride, dilation = _pads(node), _pair(node, "strides"), _pair(node, "dilations")
    groups = node.integer("group", 1)
    if known is None and dilation != [1, 1]:
        raise UnsupportedGraph("Conv with auto_pad and dilations is not supported.")

    def apply(x: Tensor, weight: Tensor, bias: Operand = None) -> Tensor:
        pads = _settled(known, x, weight.shape[-2:], stride)
        top, left, bottom, right = pads
        symmetric = (top, left) == (bottom, right)
        x = x if symmetric else _padded(x, pads, 0.0)
        inside = (top, left) if symmetric else (0, 0)
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


@builder("InstanceNormalization")
def instance_normalization(node: Node) -> Apply:
    epsilon = node.number("epsilon", 1e-5)
    return lambda x, scale, bias: F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@builder("LayerNormalization")
def layer_normalization(node: Node) -> Apply:
    axis, epsilon = node.integer("axis", -1), node.number("epsilon", 1e-5)

    def apply(x: Tensor, scale: Tensor, bias: Operand = None) -> Tensor:
        dims = list(range(axis % x.ndim, x.ndim))
        centred = x - x.mean(dims, keepdim=True)
        spread = (centred.square().mean(dims, keepdim=True) + epsilon).sqrt()
        out = centred / spread * scale
        return out if bias is None else out + bias

    return apply


@builder("LpNormalization")
def lp_normalization(node: Node) -> Apply:
    power, axis = node.integer("p", 2), node.integer("axis", -1)
    return lambda x: x / torch.linalg.vector_norm(x, power, dim=axis, keepdim=True)


@builder("LRN")
def local_response(node: Node) -> Apply:
    size, bias = node.integer("size", 5), node.number("bias", 1.0)
    alpha, beta = node.number("alpha", 1e-4), node.number("beta", 0.75)
    if not 1 <= size <= 64:
        raise UnsupportedGraph(f"LRN over {size} channels is not supported.")
    return lambda x: F.local_response_norm(x, size, alpha, beta, bias)


@builder("MatMul")
def matmul(node: Node) -> Apply:
    return lambda a, b: torch.matmul(*together(a, b))


@builder("Gemm")
def gemm(node: Node) -> Apply:
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    turn_a, turn_b = node.integer("transA", 0), node.integer("transB", 0)

    def apply(a: Tensor, b: Tensor, c: Operand = None) -> Tensor:
        out = (a.t() if turn_a else a) @ (b.t() if turn_b else b)
        out = out if alpha == 1.0 else alpha * out
        return out if c is None else out + (c if beta == 1.0 else beta * c)

    return apply


@builder("GlobalAveragePool")
def global_average_pool(node: Node) -> Apply:
    return lambda x: x.mean((2, 3), keepdim=True)


@builder("GlobalMaxPool")
def global_max_pool(node: Node) -> Apply:
    return lambda x: x.amax((2, 3), keepdim=True)


def _window(node: Node) -> tuple[list[int], list[int], bool]:
    if node.integers("dilations", [1, 1]) != [1, 1]:
        raise UnsupportedGraph(f"{node.op} with dilations is not supported.")
    return _pair(node, "kernel_shape"), _pair(node, "strides"), bool(node.integer("ceil_mode", 0))


def _up_to_a_window(
    x: Tensor, pads: Pads, kernel: Sequence[int], stride: Sequence[int], ceil: bool
) -> Pads:
    """Pads with what is missing on the far sides to a whole number of windows, for ceil_mode."""
    if not ceil:
        return pads
    more = []
    for side, near, far, window, step in zip(
        x.shape[-2:], pads[:2], pads[2:], kernel, stride, strict=True
    ):
        last = -(-(side + near + far - window) // step)
        if last * step >= side + near:  # a window may not start in the far padding
            last -= 1
        more.append(max(0, last * step + window - side - near - far))
    return pads[0], pads[1], pads[2] + more[0], pads[3] + more[1]


@builder("MaxPool")
def max_pool(node: Node) -> Apply:
    (kernel, stride, ceil), known = _window(node), _pads(node)

    def apply(x: Tensor) -> Tensor:
        pads = _up_to_a_window(x, _settled(known, x, kernel, stride), kernel, stride, ceil)
        return F.max_pool2d(_padded(x, pads, float("-inf")), kernel, stride)

    return apply


@builder("AveragePool")
def average_pool(node: Node) -> Apply:
    (kernel, stride, ceil), known = _window(node), _pads(node)
    include = bool(node.integer("count_include_pad", 0))

    def apply(x: Tensor) -> Tensor:
        own = _settled(known, x, kernel, stride)
        pads = _up_to_a_window(x, own, kernel, stride, ceil)
        mean = F.avg_pool2d(_padded(x, pads, 0.0), kernel, stride)
        if pads == own and (include or not any(pads)):
            return mean
        counted = _padded(x.new_ones((1, 1, *x.shape[2:])), own, 1.0 if include else 0.0)
        rest = [p - q for p, q in zip(pads, own, strict=True)]
        return mean / F.avg_pool2d(_padded(counted, rest, 0.0), kernel, stride)

    return apply


@builder("Pad")
def pad(node: Node) -> Apply:
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(
        node.text("mode", "constant")
    )
    if mode is None:
        raise UnsupportedGraph(f"Pad in mode {node.text('mode', '')} is not supported.")
    fixed, level = node.integers("pads", []), node.number("value", 0.0)

    def apply(
        x: Tensor, pads: Operand = None, value: Operand = None, axes: Operand = None
    ) -> Tensor:
        sizes = fixed if pads is None else [int(p) for p in pads.tolist()]
        chosen = range(x.ndim) if axes is None else [int(a) % x.ndim for a in axes.tolist()]
        pairs = dict(zip(chosen, zip(*_halves(sizes), strict=True), strict=True))
        flat = [size for axis in reversed(range(x.ndim)) for size in pairs.get(axis, (0, 0))]
        grown = [x.shape[a] + sum(pairs.get(a, (0, 0))) for a in range(x.ndim)]
        affordable(node, grown)
        if not any(flat):
            return x
        fill = level if value is None else float(value)
        if mode == "constant":
            return F.pad(x, flat, value=fill)
        return F.pad(x, flat[:4], mode)

    return apply


def _halves(sizes: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    middle = len(sizes) // 2
    return sizes[:middle], sizes[middle:]
