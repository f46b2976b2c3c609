"""Proof before first use: the converted network against a reference, its gradient against slopes."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .graph import Graph, InputRange, UnsupportedGraph, input_range
from .network import GraphNetwork, in_batches
from .proto import import_onnx, opset

EMBEDDING_TOLERANCE = 1e-4
DERIVATIVE_TOLERANCE = 1e-4
NORMALISATION: dict[InputRange, tuple[float, float]] = {
    "symmetric": (0.5, 0.5),
    "unit": (0.0, 1.0),
    "bytes": (0.0, 1.0 / 255.0),
}
"""mean and std that bring pictures in [0, 1] to the values a graph wants."""


@dataclass(frozen=True)
class Proof:
    """What was compared and how far apart it was (unit embeddings; relative derivatives)."""

    reference: str
    embedding_error: float
    derivative_error: float

    def as_text(self) -> str:
        return json.dumps(asdict(self))


def verify(path: Path, graph: Graph, network: GraphNetwork, *, seed: int = 0) -> Proof:
    """Compare `network` with the ONNX file on random pictures; UnsupportedGraph when it differs.

    Two pictures at once in PyTorch, one by one in the reference (or as many as the export asks
    for), so a mistake in the batch dimension shows too.
    """
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(2, 3, graph.size, graph.size, generator=generator)
    mean, std = NORMALISATION[input_range(graph)]
    values = (pictures - mean) / std
    reference, expected = _reference(path, graph, values)
    try:
        with torch.no_grad():
            got = network(values)
    except Exception as reason:  # whatever a foreign graph makes of our shapes
        raise UnsupportedGraph(
            f"{path.name}: the converted network does not run: {str(reason)[:200]}"
        ) from reason
    if not bool(got.isfinite().all()) or not bool(got.abs().sum(1).gt(0).all()):
        raise UnsupportedGraph(
            f"{path.name} gives no usable vector for a picture: its weights are damaged.",
            "Fetch it again.",
        )
    if got.shape != expected.shape:
        raise UnsupportedGraph(
            f"{path.name}: the converted network gives {list(got.shape)}, {reference} "
            f"{list(expected.shape)}; this graph cannot be used."
        )
    error = float((F.normalize(got, dim=1) - F.normalize(expected, dim=1)).abs().max())
    if not error <= EMBEDDING_TOLERANCE:
        raise UnsupportedGraph(
            f"{path.name}: the converted network differs from {reference} by {error:.1e} "
            f"(allowed {EMBEDDING_TOLERANCE:.0e}); it is not used. Please report this file."
        )
    slope = derivative_error(network, values[:1], generator)
    if not slope <= DERIVATIVE_TOLERANCE:
        raise UnsupportedGraph(
            f"{path.name}: gradients differ from measured slopes by {slope:.1e} (relative; allowed "
            f"{DERIVATIVE_TOLERANCE:.0e}); it is not used. Please report this file."
        )
    return Proof(reference, error, slope)


def derivative_error(network: GraphNetwork, values: Tensor, generator: torch.Generator) -> float:
    """Largest gap between autograd and central differences along random directions.

    In float64, on a random projection of the unit embedding, relative to the slope or to the gradient's length,
    whichever is larger: a direction that happens to lie across the gradient has hardly a slope to compare with.
    Infinite where there is no gradient.
    A difference that steps over the kink of a PReLU is off however right the gradient is, so of
    several steps the best counts; a wrong gradient fits none of them.
    """
    precise = copy.deepcopy(network).double()
    x = values.double().requires_grad_(True)
    first = F.normalize(precise(x), dim=1)
    weights = torch.randn(first.shape, generator=generator, dtype=torch.float64)
    if not first.requires_grad:
        return float("inf")
    (gradient,) = torch.autograd.grad((first * weights).sum(), x)
    scale, length = float(values.abs().max()), float(gradient.norm())
    worst = 0.0
    for _ in range(2):
        direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        computed = float((gradient * direction).sum())
        best = float("inf")
        for step in (1e-7 * scale, 1e-8 * scale, 1e-6 * scale, 1e-5 * scale):
            with torch.no_grad():
                ends = [F.normalize(precise(x + s * step * direction), dim=1) for s in (1, -1)]
            measured = float(((ends[0] - ends[1]) * weights).sum() / (2 * step))
            size = max(abs(measured), abs(computed), length)
            best = min(best, abs(measured - computed) / size if size > 0 else float("inf"))
            if best <= 0.01 * DERIVATIVE_TOLERANCE:
                break
        worst = max(worst, best)
    return worst


def _reference(path: Path, graph: Graph, values: Tensor) -> tuple[str, Tensor]:
    try:
        name, run = _onnxruntime(path, graph) or _evaluator(path, graph)
    except Exception as error:  # each runtime has errors of its own
        raise UnsupportedGraph(
            f"{path.name} is not accepted by the reference: {str(error)[:200]}"
        ) from error
    pictures = values.permute(0, 2, 3, 1).contiguous() if graph.channels_last else values

    def embedded(batch: Tensor) -> Tensor:
        return torch.from_numpy(run(batch.numpy())).flatten(1)

    try:
        rows = in_batches(embedded, pictures, graph.batch or 1)
    except Exception as error:  # each runtime has errors of its own
        raise UnsupportedGraph(
            f"{path.name} does not run in {name} on pictures of {graph.size} px: {str(error)[:200]}"
        ) from error
    return name, rows


def _onnxruntime(path: Path, graph: Graph) -> tuple[str, Any] | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    label = f"onnxruntime {onnxruntime.__version__}"
    output = _output([value.name for value in session.get_outputs()], graph)
    return label, lambda batch: session.run([output], {graph.input: batch})[0]


def _output(names: list[str], graph: Graph) -> str:
    """The embedding's name in the file; an alias that the reader followed is the only output."""
    return graph.output if graph.output in names else names[0]


def _evaluator(path: Path, graph: Graph) -> tuple[str, Any]:
    onnx = import_onnx()
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(str(path))  # the reader has checked where external data lies
    for node in model.graph.node:
        # The evaluator mixes batch statistics in below opset 14; a momentum of 1 keeps them out.
        if node.op_type == "BatchNormalization" and opset(model) < 14:
            kept = [a for a in node.attribute if a.name != "momentum"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("momentum", 1.0)])
    evaluator: Any = ReferenceEvaluator(model)
    output = _output(list(evaluator.output_names), graph)
    label = f"onnx {onnx.__version__} reference evaluator"
    return label, lambda batch: evaluator.run([output], {graph.input: batch})[0]
