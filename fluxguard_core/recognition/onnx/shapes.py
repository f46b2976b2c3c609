"""Operators that move values about, and those that work on shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from .graph import Node, UnsupportedGraph
from .whitelist import Apply, Operand, affordable, axes_of, builder, numbers, together


@builder("Flatten")
def flatten(node: Node) -> Apply:
    axis = node.integer("axis", 1)

    def apply(x: Tensor) -> Tensor:
        rows = 1
        for size in x.shape[: axis % x.ndim if axis < 0 else axis]:
            rows *= size
        return x.flatten(1) if axis == 1 and x.ndim > 1 else x.reshape(rows, -1)

    return apply


@builder("Reshape")
def reshape(node: Node) -> Apply:
    batch = node.integer("batch", 0)  # of an export for so many pictures at a time
    keep_zero = bool(node.integer("allowzero", 0))

    def apply(x: Tensor, shape: Tensor) -> Tensor:
        sizes = numbers(shape)
        if not keep_zero:
            sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
        if batch and sizes and sizes[0] == batch:
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
    return lambda *parts: torch.cat(together(*parts), axis)


@builder("Split")
def split(node: Node) -> Apply:
    """One part of a split: the reader makes as many nodes as there are outputs."""
    axis, part, parts = node.integer("axis", 0), node.integer("part", 0), node.integer("parts", 1)
    fixed = node.integers("split", [])

    def apply(x: Tensor, sizes: Operand = None) -> Tensor:
        given = fixed if sizes is None else numbers(sizes)
        if not given:
            whole = -(-x.shape[axis] // parts)
            given = [min(whole, x.shape[axis] - i * whole) for i in range(parts)]
        return x.narrow(axis, sum(given[:part]), given[part])

    return apply


@builder("Slice")
def slice_of(node: Node) -> Apply:
    def apply(
        x: Tensor,
        starts: Operand = None,
        ends: Operand = None,
        axes: Operand = None,
        steps: Operand = None,
    ) -> Tensor:
        first = numbers(starts) if starts is not None else node.integers("starts", [])
        last = numbers(ends) if ends is not None else node.integers("ends", [])
        chosen = axes_of(node, axes) or list(range(len(first)))
        strides = numbers(steps) if steps is not None else [1] * len(first)
        for axis, start, end, step in zip(chosen, first, last, strides, strict=True):
            x = _sliced(node, x, axis % x.ndim, start, end, step)
        return x

    return apply


def _sliced(node: Node, x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    if step == 0:
        raise UnsupportedGraph(f"{node.op} with a step of 0 is not ONNX.")
    places = range(
        *slice(start, None if step < 0 and end < -x.shape[axis] else end, step).indices(
            x.shape[axis]
        )
    )
    if step == 1:
        return x.narrow(axis, places.start, len(places))
    return x.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=x.device))


@builder("Gather")
def gather(node: Node) -> Apply:
    axis = node.integer("axis", 0)

    def apply(x: Tensor, index: Tensor) -> Tensor:
        at = axis % x.ndim
        chosen = (index.flatten() % x.shape[at]).to(x.device)
        rows = x.index_select(at, chosen)
        return rows.reshape((*x.shape[:at], *index.shape, *x.shape[at + 1 :]))

    return apply


@builder("Squeeze")
def squeeze(node: Node) -> Apply:
    def apply(x: Tensor, axes: Operand = None) -> Tensor:
        chosen = axes_of(node, axes)
        if not chosen:
            raise UnsupportedGraph("Squeeze without axes is refused: it would drop a batch of one.")
        return x.squeeze(chosen)

    return apply


@builder("Unsqueeze")
def unsqueeze(node: Node) -> Apply:
    def apply(x: Tensor, axes: Operand = None) -> Tensor:
        chosen = axes_of(node, axes)
        rank = x.ndim + len(chosen)
        for axis in sorted(a % rank for a in chosen):
            x = x.unsqueeze(axis)
        return x

    return apply


@builder("Expand")
def expand(node: Node) -> Apply:
    def apply(x: Tensor, shape: Tensor) -> Tensor:
        sizes = list(torch.broadcast_shapes(tuple(x.shape), tuple(numbers(shape))))
        return x.expand(affordable(node, sizes))

    return apply


@builder("Tile")
def tile(node: Node) -> Apply:
    def apply(x: Tensor, repeats: Tensor) -> Tensor:
        times = numbers(repeats)
        affordable(node, [size * n for size, n in zip(x.shape, times, strict=True)])
        return x.repeat(times)

    return apply


@builder("Shape")
def shape_of(node: Node) -> Apply:
    first, last = node.integer("start", 0), node.attributes.get("end")
    end = last if isinstance(last, int) else None
    return lambda x: torch.tensor(tuple(x.shape)[first:end], dtype=torch.int64)


@builder("Size")
def size_of(node: Node) -> Apply:
    return lambda x: torch.tensor(x.numel(), dtype=torch.int64)


@builder("ConstantOfShape")
def constant_of_shape(node: Node) -> Apply:
    whole = node.integer("whole", 0)  # set by the reader, from the type of the value
    level = node.number("value", 0.0)

    def apply(shape: Tensor) -> Tensor:
        sizes = affordable(node, numbers(shape))
        kind = torch.int64 if whole else torch.float32
        return torch.full(sizes, int(level) if whole else level, dtype=kind)

    return apply


@builder("Range")
def range_of(node: Node) -> Apply:
    def apply(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        first, last, step = (v.item() for v in (start, limit, delta))
        if step == 0:
            raise UnsupportedGraph("Range with a step of 0 is not ONNX.")
        affordable(node, [max(0, int((last - first) / step) + 1)])
        return torch.arange(first, last, step)

    return apply
