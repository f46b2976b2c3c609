"""Every operator of the whitelist against onnxruntime, and real exports against their origin."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)

from fluxguard_core.recognition.backbones.inception_resnet import InceptionResnetV1
from fluxguard_core.recognition.backbones.iresnet_arcface import IResNet
from fluxguard_core.recognition.backbones.iresnet_evolve import IRBackbone
from fluxguard_core.recognition.backbones.mobilefacenet import MobileFaceNet
from fluxguard_core.recognition.backbones.vit import FaceViT
from fluxguard_core.recognition.onnx import GraphNetwork, UnsupportedGraph, convert_onnx
from fluxguard_core.recognition.onnx.operators import OPERATORS
from fluxguard_core.recognition.onnx.reader import read_onnx


class Model:
    """A graph of a few nodes on an input [2, 3, 8, 8]."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(5)
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def several(self, op: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        names = [f"v{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names

    def mask(self, op: str, *inputs: str) -> str:
        """A comparison, used as it is used: to choose."""
        return self.add("Where", self.add(op, *inputs), "x", self.value(0.5))

    def both(self, op: str) -> str:
        one = self.add("Less", "x", self.normal(8))
        return self.mask(op, one, self.add("Greater", "x", self.normal(3, 1, 1)))

    def value(self, data: Any, kind: Any = np.float32) -> str:
        name = f"w{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(data, kind), name))
        return name

    def integers(self, *data: int) -> str:
        return self.value(data, np.int64)

    def normal(self, *shape: int) -> str:
        return self.value(self.random.standard_normal(shape))

    def save(self, path: Path, output: str, opset: int, batch: Any = "N") -> Path:
        picture = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])
        out = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "g", [picture], [out], self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 8
        onnx.save(model, str(path))
        return path


def flat(m: Model, x: str = "x") -> str:
    return m.add("Flatten", x)


def by_shape(m: Model) -> str:
    """x.view(x.size(0), -1) as exporters write it."""
    count = m.add("Gather", m.add("Shape", "x"), m.value(0, np.int64), axis=0)
    shape = m.add("Concat", m.add("Unsqueeze", count, m.integers(0)), m.integers(-1), axis=0)
    return m.add("Reshape", "x", shape)


def folded_slope(m: Model) -> str:
    """A PRelu slope brought to [C,1,1] by nodes, as MXNet exports have it."""
    slope = m.add("Unsqueeze", m.add("Reshape", m.normal(3), m.integers(3, 1)), m.integers(2))
    return m.add("PRelu", "x", slope)


CASES: dict[str, tuple[int, Callable[[Model], str]]] = {
    "Conv": (13, lambda m: m.add("Conv", "x", m.normal(6, 1, 3, 3), m.normal(6), group=3,
                                 strides=[2, 1], pads=[1, 1, 1, 1], dilations=[1, 2])),
    "Conv, uneven pads": (13, lambda m: m.add("Conv", "x", m.normal(4, 3, 3, 3), pads=[0, 1, 2, 0])),
    "Conv, auto_pad": (13, lambda m: m.add("Conv", "x", m.normal(4, 3, 3, 3), auto_pad="VALID")),
    "BatchNormalization": (13, lambda m: m.add("BatchNormalization", "x", m.normal(3), m.normal(3),
                                               m.normal(3), m.value([0.5, 1, 2]), epsilon=1e-3)),
    "PRelu": (13, lambda m: m.add("PRelu", "x", m.normal(3, 1, 1))),
    "PRelu, one slope": (13, lambda m: m.add("PRelu", "x", m.value([0.2]))),
    "PRelu, by place": (13, lambda m: m.add("PRelu", "x", m.normal(8))),
    "PRelu, flat": (13, lambda m: m.add("PRelu", flat(m), m.normal(192))),
    "PRelu, folded slope": (13, folded_slope),
    "Relu": (13, lambda m: m.add("Relu", "x")),
    "LeakyRelu": (13, lambda m: m.add("LeakyRelu", "x", alpha=0.3)),
    "Sigmoid": (13, lambda m: m.add("Sigmoid", "x")),
    "HardSigmoid": (13, lambda m: m.add("HardSigmoid", "x", alpha=0.4, beta=0.3)),
    "Clip": (13, lambda m: m.add("Clip", "x", m.value(-0.2), m.value(0.6))),
    "Clip, above": (13, lambda m: m.add("Clip", "x", "", m.value(0.6))),
    "Clip, old": (10, lambda m: m.add("Clip", "x", min=-0.2, max=0.6)),
    "Add": (13, lambda m: m.add("Add", "x", m.normal(3, 1, 1))),
    "Sub": (13, lambda m: m.add("Sub", m.normal(1, 3, 1, 8), "x")),
    "Mul": (13, lambda m: m.add("Mul", "x", "x")),
    "Div": (13, lambda m: m.add("Div", m.normal(1), m.add("Add", m.add("Mul", "x", "x"), m.value(0.3)))),
    "Pow": (13, lambda m: m.add("Pow", "x", m.value(2.0))),
    "Sqrt": (13, lambda m: m.add("Sqrt", m.add("Mul", "x", "x"))),
    "MatMul": (13, lambda m: m.add("MatMul", flat(m), m.normal(192, 5))),
    "Gemm": (13, lambda m: m.add("Gemm", flat(m), m.normal(5, 192), m.normal(5), transB=1,
                                 alpha=0.5, beta=2.0)),
    "Gemm, turned": (13, lambda m: m.add("Gemm", m.add("Transpose", flat(m), perm=[1, 0]),
                                         m.normal(192, 5), transA=1)),
    "Flatten": (13, lambda m: m.add("Flatten", "x", axis=1)),
    "Reshape": (13, lambda m: m.add("Reshape", "x", m.integers(0, -1, 4))),
    "Transpose": (13, lambda m: m.add("Transpose", "x", perm=[0, 2, 3, 1])),
    "Concat": (13, lambda m: m.add("Concat", "x", m.add("Relu", "x"), axis=1)),
    "Shape": (13, by_shape),
    "Gather": (13, lambda m: m.add("Gather", "x", m.integers(2, -3), axis=1)),
    "Unsqueeze": (13, lambda m: m.add("Unsqueeze", "x", m.integers(1, -1))),
    "Unsqueeze, old": (11, lambda m: m.add("Unsqueeze", "x", axes=[2])),
    "Squeeze": (13, lambda m: m.add("Squeeze", m.add("GlobalAveragePool", "x"), m.integers(2, 3))),
    "Squeeze, old": (11, lambda m: m.add("Squeeze", m.add("GlobalAveragePool", "x"), axes=[2, 3])),
    "ReduceMean": (13, lambda m: m.add("ReduceMean", "x", axes=[2, 3], keepdims=0)),
    "ReduceMean, new": (18, lambda m: m.add("ReduceMean", "x", m.integers(1))),
    "ReduceSum": (13, lambda m: m.add("ReduceSum", "x", m.integers(3))),
    "ReduceL2": (13, lambda m: m.add("ReduceL2", "x", axes=[1], keepdims=1)),
    "LpNormalization": (13, lambda m: m.add("LpNormalization", flat(m), axis=1, p=2)),
    "GlobalAveragePool": (13, lambda m: m.add("GlobalAveragePool", "x")),
    "MaxPool": (13, lambda m: m.add("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2],
                                    pads=[1, 0, 1, 1])),
    "AveragePool": (13, lambda m: m.add("AveragePool", "x", kernel_shape=[2, 3], strides=[2, 1])),
    "AveragePool, padded": (13, lambda m: m.add("AveragePool", "x", kernel_shape=[3, 3],
                                                pads=[1, 1, 1, 1], count_include_pad=1)),
    "Pad": (13, lambda m: m.add("Pad", "x", m.integers(0, 0, 1, 2, 0, 0, 3, 0), m.value(0.5))),
    "Pad, old": (10, lambda m: m.add("Pad", "x", pads=[0, 0, 1, 2, 0, 0, 3, 0], value=0.5)),
    "Pad, reflect": (13, lambda m: m.add("Pad", "x", m.integers(0, 0, 1, 2, 0, 0, 3, 0),
                                         mode="reflect")),
    "Pad, edge": (18, lambda m: m.add("Pad", "x", m.integers(1, 2, 0, 1), "", m.integers(2, 3),
                                      mode="edge")),
    "Conv, same": (13, lambda m: m.add("Conv", "x", m.normal(4, 3, 3, 3), strides=[2, 2],
                                       auto_pad="SAME_UPPER")),
    "InstanceNormalization": (13, lambda m: m.add("InstanceNormalization", "x", m.normal(3),
                                                  m.normal(3), epsilon=1e-3)),
    "LayerNormalization": (17, lambda m: m.add("LayerNormalization", "x", m.normal(8, 8), m.normal(8, 8),
                                               axis=2, epsilon=1e-3)),
    "LRN": (13, lambda m: m.add("LRN", "x", size=3, alpha=0.3, beta=0.6, bias=1.5)),
    "GlobalMaxPool": (13, lambda m: m.add("GlobalMaxPool", "x")),
    "MaxPool, ceil": (13, lambda m: m.add("MaxPool", "x", kernel_shape=[3, 3], strides=[3, 2],
                                          ceil_mode=1)),
    "AveragePool, padding out": (13, lambda m: m.add("AveragePool", "x", kernel_shape=[3, 3],
                                                     pads=[1, 1, 0, 1])),
    "AveragePool, ceil": (19, lambda m: m.add("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2],
                                              ceil_mode=1, count_include_pad=1, pads=[0, 0, 0, 0])),
    "Flatten, axis 2": (13, lambda m: m.add("Reshape", m.add("Flatten", "x", axis=2), m.integers(-1, 192))),
    "Split": (13, lambda m: m.add("Concat", *m.several("Split", 2, "x", m.integers(1, 2), axis=1)[::-1], axis=1)),
    "Split, equal": (13, lambda m: m.add("Concat", *m.several("Split", 4, "x", axis=3)[::-1], axis=1)),
    "Split, old": (11, lambda m: m.several("Split", 2, "x", axis=2, split=[3, 5])[1]),
    "Slice": (13, lambda m: m.add("Slice", "x", m.integers(1, -6), m.integers(9, -1), m.integers(1, 3),
                                  m.integers(1, 2))),
    "Slice, backwards": (13, lambda m: m.add("Slice", "x", m.integers(-1), m.integers(-(2**62)),
                                             m.integers(1), m.integers(-1))),
    "Slice, old": (9, lambda m: m.add("Slice", "x", starts=[1], ends=[3], axes=[2])),
    "Expand": (13, lambda m: m.add("Mul", "x", m.add("Expand", m.normal(1, 1, 8), m.integers(3, 8, 1)))),
    "Tile": (13, lambda m: m.add("Tile", "x", m.integers(1, 2, 1, 3))),
    "Size": (13, lambda m: m.add("Mul", "x", m.add("Cast", m.add("Size", m.normal(3, 2)), to=1))),
    "ConstantOfShape": (13, lambda m: m.add("Add", "x", m.add("ConstantOfShape", m.add("Shape", "x"),
                                            value=helper.make_tensor("v", 1, [1], [0.5])))),
    "Range": (13, lambda m: m.add("Mul", "x", m.add("Cast", m.add(
        "Range", m.value(0, np.int64), m.value(8, np.int64), m.value(1, np.int64)), to=1))),
    "Min": (13, lambda m: m.add("Min", "x", m.normal(8), m.normal(3, 1, 1))),
    "Max": (13, lambda m: m.add("Max", m.normal(1), "x")),
    "Sum": (13, lambda m: m.add("Sum", "x", m.normal(8), "x")),
    "Mean": (13, lambda m: m.add("Mean", "x", m.normal(8))),
    "Mod": (13, lambda m: m.add("Mod", "x", m.value(0.3), fmod=1)),
    "Where": (13, lambda m: m.add("Where", m.add("Greater", "x", m.value(0.1)), "x", m.normal(8))),
    "Equal": (13, lambda m: m.mask("Equal", m.add("Floor", "x"), m.value(0.0))),
    "Less": (13, lambda m: m.mask("Less", "x", m.normal(8))),
    "LessOrEqual": (16, lambda m: m.mask("LessOrEqual", "x", "x")),
    "Greater": (13, lambda m: m.mask("Greater", "x", m.normal(8))),
    "GreaterOrEqual": (16, lambda m: m.mask("GreaterOrEqual", "x", m.normal(8))),
    "And": (13, lambda m: m.both("And")),
    "Or": (13, lambda m: m.both("Or")),
    "Xor": (13, lambda m: m.both("Xor")),
    "Not": (13, lambda m: m.mask("Not", m.add("Less", "x", m.normal(8)))),
    "Cast": (13, lambda m: m.add("Cast", m.add("Cast", m.add("Mul", "x", m.value(3.0)), to=7), to=1)),
    "CastLike": (15, lambda m: m.add("CastLike", m.add("Cast", "x", to=7), "x")),
    "Abs": (13, lambda m: m.add("Abs", "x")),
    "Ceil": (13, lambda m: m.add("Ceil", "x")),
    "Cos": (13, lambda m: m.add("Cos", "x")),
    "Elu": (13, lambda m: m.add("Elu", "x", alpha=0.7)),
    "Erf": (13, lambda m: m.add("Erf", "x")),
    "Exp": (13, lambda m: m.add("Exp", "x")),
    "Floor": (13, lambda m: m.add("Floor", "x")),
    "Gelu": (20, lambda m: m.add("Gelu", "x", approximate="tanh")),
    "HardSwish": (14, lambda m: m.add("HardSwish", "x")),
    "Log": (13, lambda m: m.add("Log", m.add("Exp", "x"))),
    "Mish": (18, lambda m: m.add("Mish", "x")),
    "Neg": (13, lambda m: m.add("Neg", "x")),
    "Reciprocal": (13, lambda m: m.add("Reciprocal", m.add("Exp", "x"))),
    "Round": (13, lambda m: m.add("Round", "x")),
    "Selu": (13, lambda m: m.add("Selu", "x", alpha=1.5, gamma=1.1)),
    "Sign": (13, lambda m: m.add("Sign", "x")),
    "Sin": (13, lambda m: m.add("Sin", "x")),
    "Softmax": (13, lambda m: m.add("Softmax", "x", axis=1)),
    "Softmax, old": (11, lambda m: m.add("Softmax", "x", axis=2)),
    "LogSoftmax": (13, lambda m: m.add("LogSoftmax", "x")),
    "Softplus": (13, lambda m: m.add("Softplus", "x")),
    "Softsign": (13, lambda m: m.add("Softsign", "x")),
    "Tanh": (13, lambda m: m.add("Tanh", "x")),
    "ReduceL1": (13, lambda m: m.add("ReduceL1", "x", axes=[3])),
    "ReduceMax": (13, lambda m: m.add("ReduceMax", "x", axes=[1, 2])),
    "ReduceMin": (18, lambda m: m.add("ReduceMin", "x", m.integers(-1), keepdims=0)),
    "ReduceProd": (13, lambda m: m.add("ReduceProd", "x", axes=[1, 3], keepdims=0)),
    "ReduceSumSquare": (13, lambda m: m.add("ReduceSumSquare", "x", axes=[2])),
}  # fmt: skip


def test_every_operator_has_a_case() -> None:
    assert {name.split(",")[0] for name in CASES} == set(OPERATORS)


@pytest.mark.parametrize("name", CASES)
def test_operators_equal_onnxruntime(tmp_path: Path, name: str) -> None:
    opset, build = CASES[name]
    m = Model()
    path = m.save(tmp_path / "g.onnx", build(m), opset)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = torch.from_numpy(session.run(None, {"x": x.numpy()})[0]).flatten(1)
    torch.testing.assert_close(GraphNetwork(read_onnx(path))(x), expected, rtol=1e-5, atol=1e-5)


REFUSED: dict[str, tuple[str, Callable[[Model], str]]] = {
    "auto_pad=SAME_LOWER": ("Conv", lambda m: m.add("Conv", "x", m.normal(4, 3, 3, 3),
                                                    auto_pad="SAME_LOWER")),
    "dilations": ("MaxPool", lambda m: m.add("MaxPool", "x", kernel_shape=[3, 3], dilations=[2, 2])),
    "training": ("BatchNormalization",
                 lambda m: m.add("BatchNormalization", "x", m.normal(3), m.normal(3), m.normal(3),
                                 m.value([0.5, 1, 2]), training_mode=1)),
    "mode wrap": ("Pad", lambda m: m.add("Pad", "x", m.integers(0, 0, 1, 1, 0, 0, 1, 1),
                                         mode="wrap")),
    "drop a batch": ("Squeeze", lambda m: m.add("Squeeze", m.add("GlobalAveragePool", "x"))),
    "makes a tensor of": ("Expand", lambda m: m.add("Expand", "x", m.integers(10**7, 1, 1, 1, 1))),
}  # fmt: skip


def really_on_the_cpu(apply: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Shapes and indices keep their numbers: only what meets a tensor of the card is pretended."""

    def applied(*operands: Tensor | None) -> Tensor:
        card = [isinstance(operand, FakeTensor) for operand in operands]
        made = apply(*operands) if any(card) else None
        if made is not None and made.device.type == "cuda":
            return made
        # A shape: its numbers are those of a real tensor of that shape.
        with unset_fake_temporarily():
            return apply(*map(alike, operands))

    def alike(operand: Tensor | None) -> Tensor | None:
        if isinstance(operand, FakeTensor):
            return torch.zeros(tuple(operand.shape), dtype=operand.dtype)
        return operand

    return applied


@pytest.mark.parametrize("name", CASES)
def test_operators_compute_on_a_card(tmp_path: Path, name: str) -> None:
    """Constants that were folded follow the network; what stays on the CPU is only ever a shape or an index."""
    opset, build = CASES[name]
    m = Model()
    network = GraphNetwork(read_onnx(m.save(tmp_path / "g.onnx", build(m), opset)))
    network._steps = [(really_on_the_cpu(step[0]), *step[1:]) for step in network._steps]
    with FakeTensorMode(allow_non_fake_inputs=True):
        for key, parameter in list(network._parameters.items()):
            there = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
            network._parameters[key] = nn.Parameter(there, False)
        out = network(torch.empty(2, 3, 8, 8, device="cuda"))
    assert out.device.type == "cuda" and out.shape[0] == 2


@pytest.mark.parametrize("problem", REFUSED)
def test_variants_that_are_not_covered_are_refused(tmp_path: Path, problem: str) -> None:
    op, build = REFUSED[problem]
    m = Model()
    path = m.save(tmp_path / "g.onnx", build(m), 13)
    with pytest.raises(UnsupportedGraph, match=problem) as caught:
        GraphNetwork(read_onnx(path))
    assert op in str(caught.value)


@pytest.mark.parametrize("batch", [1, "N"])
def test_an_export_for_one_picture_takes_many(tmp_path: Path, batch: Any) -> None:
    m = Model()
    x = m.add("Reshape", m.add("GlobalAveragePool", "x"), m.integers(1, 3))
    path = m.save(tmp_path / "g.onnx", m.add("Gemm", x, m.normal(3, 40)), 13, batch)
    graph, proof = convert_onnx(path, cache=tmp_path)
    assert proof.embedding_error < 1e-6 and graph.freed
    assert GraphNetwork(graph)(torch.rand(5, 3, 8, 8)).shape == (5, 40)


def mixing(m: Model, *shape: int) -> str:
    """A mean over all rows of the batch, harmless only where there is one."""
    return m.add("ReduceMean", m.add("Reshape", "x", m.integers(*shape)), axes=[0], keepdims=1)


def test_an_export_that_cannot_be_freed_runs_in_its_own_batches(tmp_path: Path) -> None:
    """Held to one picture, or to four, by constants inside: fed as many as it was made for."""
    m = Model()
    one = m.save(tmp_path / "one.onnx", mixing(m, 1, 192), 13, 1)
    m = Model()
    x = m.add("Add", m.add("Flatten", "x"), m.normal(4, 192))  # each place in the batch has its own
    four = m.save(tmp_path / "four.onnx", x, 13, 4)
    for path, batch in ((one, 1), (four, 4)):
        graph, proof = convert_onnx(path, cache=tmp_path)
        assert (graph.batch, graph.freed) == (batch, False) and proof.embedding_error < 1e-6
        pictures = torch.rand(6, 3, 8, 8)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        parts = (*pictures.split(batch),) if batch == 1 else (pictures[:4], pictures[[4, 5, 5, 5]])
        rows = torch.cat([torch.from_numpy(session.run(None, {"x": p.numpy()})[0]) for p in parts])
        torch.testing.assert_close(GraphNetwork(graph)(pictures), rows[:6])


def test_a_graph_that_mixes_pictures_is_refused(tmp_path: Path) -> None:
    m = Model()
    with pytest.raises(UnsupportedGraph, match="does not run: shape"):
        convert_onnx(m.save(tmp_path / "h.onnx", mixing(m, 2, 90), 13), cache=tmp_path)
    m = Model()
    mean = m.add("ReduceMean", flat(m), axes=[0], keepdims=1)
    with pytest.raises(UnsupportedGraph, match="differs from onnxruntime"):
        convert_onnx(m.save(tmp_path / "h.onnx", m.add("Sub", flat(m), mean), 13), cache=tmp_path)


def randomise(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1, generator=generator)
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


EXPORTS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "arcface": (32, lambda: IResNet((2, 1, 1, 1), width=8, dimension=32, size=32)),
    "evolve": (32, lambda: IRBackbone((1, 1, 1, 1), width=16, dimension=32, size=32)),
    "evolve, se": (32, lambda: IRBackbone((1, 1, 1, 1), se=True, width=16, dimension=32, size=32)),
    "facenet": (96, lambda: InceptionResnetV1(width=4, depth=(1, 1, 1), dimension=32)),
    "mobileface": (32, lambda: MobileFaceNet(width=8, depth=(1, 1, 1), dimension=32, size=32)),
}


def export(network: nn.Module, path: Path, size: int, one: bool = False) -> Path:
    axes = {} if one else {"input": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.rand(1, 3, size, size),), str(path), dynamo=False, opset_version=14,
            input_names=["input"], dynamic_axes=axes,
        )  # fmt: skip
    return path


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("name", EXPORTS)
def test_exports_equal_their_origin_in_value_and_gradient(
    tmp_path: Path, name: str, one: bool
) -> None:
    size, build = EXPORTS[name]
    origin = randomise(build())
    graph, proof = convert_onnx(export(origin, tmp_path / "e.onnx", size, one), cache=tmp_path)
    assert (graph.batch == 1) is one and proof.embedding_error < 1e-5
    x = torch.rand(2, 3, size, size)
    rows: list[tuple[Tensor, Tensor]] = []
    for network in (origin, GraphNetwork(graph)):
        picture = x.clone().requires_grad_(True)
        embedding = F.normalize(network(picture), dim=1)
        embedding[:, :8].sum().backward()
        assert picture.grad is not None
        rows.append((embedding.detach(), picture.grad))
    torch.testing.assert_close(rows[0][0], rows[1][0], rtol=1e-4, atol=1e-5)
    scale = rows[0][1].abs().max()
    assert (rows[0][1] - rows[1][1]).abs().max() < 1e-3 * scale


def test_a_vision_transformer_equals_its_origin(tmp_path: Path) -> None:
    network = FaceViT(width=16, depth=1, heads=2, dimension=32, size=27).eval()
    graph, proof = convert_onnx(export(network, tmp_path / "v.onnx", 27), cache=tmp_path)
    assert proof.embedding_error < 1e-5
    x = torch.rand(3, 3, 27, 27)
    torch.testing.assert_close(GraphNetwork(graph)(x), network(x), rtol=1e-4, atol=1e-5)
