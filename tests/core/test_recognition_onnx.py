"""ONNX recognisers in PyTorch: equal to onnxruntime, differentiable, refused where unknown."""

from __future__ import annotations

import builtins
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from fluxguard_core.recognition import FaceEncoder
from fluxguard_core.recognition.onnx import (
    GraphNetwork,
    UnsupportedGraph,
    convert_onnx,
    load_onnx_encoder,
)
from fluxguard_core.recognition.onnx.graph import input_range
from fluxguard_core.recognition.onnx.reader import read_onnx
from fluxguard_core.recognition.onnx.verify import DERIVATIVE_TOLERANCE, derivative_error
from fluxguard_core.weights import ModelFileError


class Builder:
    """Writes an ONNX file node by node, with seeded random weights."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.pool = self.random.standard_normal(1 << 20, dtype=np.float32)
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def tensor(self, value: Any, kind: Any = np.float32) -> str:
        name = f"w{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value, dtype=kind), name))
        return name

    def weights(self, *shape: int, gain: float = 1.4) -> str:
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        start = int(self.random.integers(len(self.pool)))
        pool = np.concatenate([self.pool[start:], self.pool[:start]])
        return self.tensor(np.resize(pool * np.float32(gain / fan**0.5), shape))

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 3, stride: int = 1,
             groups: int = 1, pad: int | None = None, bias: bool = True, gain: float = 1.4) -> str:  # fmt: skip
        weight = self.weights(outputs, inputs // groups, kernel, kernel, gain=gain)
        rest = (self.weights(outputs, gain=0.1),) if bias else ()
        p = kernel // 2 if pad is None else pad
        return self.add("Conv", x, weight, *rest, kernel_shape=[kernel] * 2, strides=[stride] * 2,
                        pads=[p] * 4, group=groups)  # fmt: skip

    def norm(self, x: str, channels: int, epsilon: float = 1e-5) -> str:
        uniform = self.random.uniform
        rows = [uniform(0.6, 1.4, channels), uniform(-0.2, 0.2, channels)]
        rows += [uniform(-0.2, 0.2, channels), uniform(0.5, 1.5, channels)]
        return self.add("BatchNormalization", x, *map(self.tensor, rows), epsilon=epsilon)

    def prelu(self, x: str, channels: int) -> str:
        return self.add("PRelu", x, self.tensor(self.random.uniform(0.1, 0.4, (channels, 1, 1))))

    def save(self, path: Path, output: str, size: int = 112, batch: Any = "N", opset: int = 13,
             tensors_as_inputs: bool = False) -> Path:  # fmt: skip
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, size, size])]
        if tensors_as_inputs:  # as old exporters write them
            inputs += [
                helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in self.tensors
            ]
        out = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "face", inputs, [out], self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 8
        onnx.save(model, str(path))
        return path


def iresnet(path: Path, width: int = 8, units: tuple[int, ...] = (1, 2, 1, 1), size: int = 112,
            dimension: int = 32, aliases: bool = False, **save: Any) -> Path:  # fmt: skip
    """The layout of w600k_r50 and glintr100: batch norms folded into the convolutions."""
    b = Builder()

    def alias(name: str) -> str:
        return b.add("Identity", name) if aliases else name

    x = b.prelu(b.conv("x", 3, width), width)
    inputs = width
    for stage, count in enumerate(units):
        outputs = width << stage
        for unit in range(count):
            stride = 2 if unit == 0 else 1
            y = b.prelu(b.conv(b.norm(x, inputs), inputs, outputs), outputs)
            y = b.conv(y, outputs, outputs, stride=stride, gain=0.4)
            skip = b.conv(x, inputs, outputs, 1, stride, gain=1.0) if unit == 0 else x
            x, inputs = b.add("Add", y, skip), outputs
    x = b.add("Flatten", b.norm(x, inputs), axis=1)
    features = inputs * (size // 16) ** 2
    x = b.add(
        "Gemm", x, alias(b.weights(dimension, features)), alias(b.weights(dimension)), transB=1
    )
    parameters = [[1.0] * dimension, [0.1] * dimension, [0.0] * dimension, [1.0] * dimension]
    names = [alias(b.tensor(values)) for values in parameters]
    return b.save(path, b.add("BatchNormalization", x, *names), size, **save)


def sface(path: Path, width: int = 8) -> Path:
    """SFace's kind: raw bytes in, scaling in the graph, depthwise units, one picture at a time."""
    b = Builder(1)
    x = b.add("Mul", b.add("Sub", "x", b.tensor([127.5])), b.tensor([0.0078125]))
    x = b.prelu(b.norm(b.conv(x, 3, width, stride=2, bias=False), width, 1e-3), width)
    for _ in range(3):
        y = b.prelu(b.norm(b.conv(x, width, 2 * width, 1, bias=False), 2 * width), 2 * width)
        y = b.conv(y, 2 * width, 2 * width, stride=2, groups=2 * width, bias=False)
        y = b.prelu(b.norm(y, 2 * width), 2 * width)
        x, width = b.norm(b.conv(y, 2 * width, 2 * width, 1, bias=False), 2 * width), 2 * width
    x = b.conv(x, width, width, 7, groups=width, pad=0, bias=False)
    x = b.add("Reshape", b.add("Dropout", x), b.tensor([1, -1], np.int64))
    out = b.add("Gemm", x, b.weights(32, width), b.weights(32), transB=1)
    parameters = ([1.0] * 32, [0.0] * 32, [0.1] * 32, [0.8] * 32)
    out = b.add("BatchNormalization", out, *(b.tensor(row) for row in parameters), epsilon=2e-5)
    return b.save(path, out, batch=1, opset=11, tensors_as_inputs=True)


def runtime(path: Path, values: Tensor, fixed_batch: bool = False) -> Tensor:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    batches = values.split(1) if fixed_batch else [values]
    name = session.get_inputs()[0].name
    rows = [torch.from_numpy(session.run(None, {name: b.numpy()})[0]) for b in batches]
    return F.normalize(torch.cat(rows), dim=1)


def test_iresnet_equals_onnxruntime_and_is_frozen(tmp_path: Path) -> None:
    path = iresnet(tmp_path / "r.onnx")
    encoder = load_onnx_encoder(path, cache=tmp_path)
    assert isinstance(encoder, FaceEncoder)
    assert (encoder.name, encoder.size, encoder.mean, encoder.std) == ("r", 112, 0.5, 0.5)
    faces = torch.rand(3, 3, 112, 112, requires_grad=True)
    embedding = encoder(faces)
    expected = runtime(path, (faces.detach() - 0.5) / 0.5)
    assert (embedding - expected).abs().max() < 1e-6
    assert not any(p.requires_grad for p in encoder.network.parameters())
    embedding[:, 0].sum().backward()
    assert faces.grad is not None and (faces.grad != 0).float().mean() > 0.99


def test_sface_kind_takes_bytes_and_any_batch(tmp_path: Path) -> None:
    path = sface(tmp_path / "s.onnx")
    graph = read_onnx(path)
    assert graph.batch == 1 and graph.freed and input_range(graph) == "bytes"
    assert {node.op for node in graph.nodes} & {"Dropout", "Identity"} == set()
    encoder = load_onnx_encoder(path, name="sface", cache=tmp_path)
    faces = torch.rand(3, 3, 112, 112)
    assert (encoder(faces) - runtime(path, faces * 255, True)).abs().max() < 1e-5


def test_the_input_range_is_read_from_the_first_nodes(tmp_path: Path) -> None:
    cases = {
        "bytes": [("Sub", 127.5), ("Mul", 1 / 128)],
        "unit": [("Mul", 2.0), ("Add", -1.0)],
        "symmetric": [("Mul", 1.1)],
    }
    for expected, steps in cases.items():
        b = Builder()
        x = "x"
        for op, value in steps:
            x = b.add(op, x, b.tensor([value]))
        x = b.add("Flatten", b.conv(x, 3, 4, stride=8))
        graph = read_onnx(b.save(tmp_path / "g.onnx", x, size=16))
        assert input_range(graph) == expected
    b = Builder()
    x = b.add("Div", b.add("Sub", "x", b.tensor([[[123.7]], [[116.3]], [[103.5]]])), b.tensor(58.0))
    graph = read_onnx(b.save(tmp_path / "g.onnx", b.add("Flatten", x), size=16))
    assert input_range(graph) == "bytes"


def test_identity_aliases_of_weights_are_followed(tmp_path: Path) -> None:
    plain, aliased = iresnet(tmp_path / "a.onnx"), iresnet(tmp_path / "b.onnx", aliases=True)
    a, b = (GraphNetwork(read_onnx(path)) for path in (plain, aliased))
    x = torch.rand(2, 3, 112, 112)
    assert torch.equal(a(x), b(x))
    assert (F.normalize(b(x), dim=1) - runtime(aliased, x)).abs().max() < 1e-6


def test_an_unknown_operator_is_refused_by_name(tmp_path: Path) -> None:
    b = Builder()
    x = b.add("Flatten", b.add("Det", b.add("Einsum", b.conv("x", 3, 4, stride=8), equation="ij")))
    with pytest.raises(UnsupportedGraph, match=r"Det, Einsum\. Supported are .*PRelu"):
        load_onnx_encoder(b.save(tmp_path / "g.onnx", x, size=16), cache=tmp_path)
    b = Builder()
    x = b.add("Flatten", b.add("Conv", "x", b.weights(4, 3, 1, 1), domain="evil.ops"))
    with pytest.raises(UnsupportedGraph, match=r"evil\.ops\.Conv"):
        read_onnx(b.save(tmp_path / "g.onnx", x, size=16))


def test_what_the_embedding_does_not_need_is_not_judged(tmp_path: Path) -> None:
    """Dead nodes are dropped, and what follows from shapes alone is worked out, before the whitelist."""
    b = Builder()
    b.add("Det", "x")
    x = b.conv("x", 3, 4, stride=4)
    rows = b.add("Gather", b.add("Shape", x), b.tensor(0, np.int64), axis=0)
    sides = b.add("Slice", b.add("Shape", x), b.tensor([1], np.int64), b.tensor([4], np.int64))
    wide = b.add("ReduceProd", sides, keepdims=1)
    shape = b.add("Concat", b.add("Unsqueeze", rows, b.tensor([0], np.int64)), wide, axis=0)
    graph = read_onnx(b.save(tmp_path / "g.onnx", b.add("Reshape", x, shape), size=16))
    assert [node.op for node in graph.nodes].count("ReduceProd") == 0
    assert GraphNetwork(graph)(torch.rand(3, 3, 16, 16)).shape == (3, 64)


def beside(path: Path, location: str = "w.bin") -> Path:
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, location=location, size_threshold=16)
    return path


def test_weights_in_a_second_file_are_read_from_beside_it(tmp_path: Path) -> None:
    plain = load_onnx_encoder(iresnet(tmp_path / "a.onnx", width=4, size=32), cache=tmp_path)
    path = beside(iresnet(tmp_path / "r.onnx", width=4, size=32))
    assert path.stat().st_size < 20_000
    faces, copies = torch.rand(2, 3, 32, 32), tmp_path / "copies"
    assert torch.equal(load_onnx_encoder(path, cache=copies)(faces), plain(faces))
    (copy,) = copies.iterdir()
    made = copy.stat().st_mtime_ns
    load_onnx_encoder(path, cache=copies)
    assert copy.stat().st_mtime_ns == made
    data = bytearray((tmp_path / "w.bin").read_bytes())
    data[100:104] = np.float32(0.25).tobytes()  # other weights under an unchanged graph
    (tmp_path / "w.bin").write_bytes(data)
    assert not torch.equal(load_onnx_encoder(path, cache=copies)(faces), plain(faces))
    (tmp_path / "w.bin").write_bytes(data[:-8])
    with pytest.raises(ModelFileError, match=r"w\.bin is truncated"):
        load_onnx_encoder(path, cache=copies)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelFileError, match="not beside it"):
        load_onnx_encoder(path, cache=copies)


@pytest.mark.parametrize(
    "location", ["../w.bin", "/etc/passwd", "a/b.bin", "..", "c:x", "a\\b", ""]
)
def test_a_graph_that_reaches_outside_its_folder_is_refused(tmp_path: Path, location: str) -> None:
    path = beside(iresnet(tmp_path / "r.onnx", width=4, size=32))
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedGraph, match="plain file name"):
        read_onnx(path)


def test_what_is_no_embedding_is_refused(tmp_path: Path) -> None:
    b = Builder()
    x = b.add("Flatten", b.add("GlobalAveragePool", b.conv("x", 3, 8)))
    few = b.save(tmp_path / "few.onnx", x, size=16)
    b = Builder()
    x = b.add("Flatten", b.add("GlobalAveragePool", b.conv("x", 3, 64)))
    classes = b.save(tmp_path / "classes.onnx", b.add("Softmax", x), size=16)
    b = Builder()
    maps = b.save(tmp_path / "maps.onnx", b.conv("x", 3, 64), size=16)
    for path, problem in (
        (few, r"gives \[8\]"),
        (classes, "ends in Softmax"),
        (maps, "64, 16, 16"),
    ):
        with pytest.raises(UnsupportedGraph, match=f"no face recogniser: .*{problem}"):
            load_onnx_encoder(path, cache=tmp_path)


def test_the_norm_beside_the_embedding_and_channels_last(tmp_path: Path) -> None:
    """AdaFace's exports give the embedding and its length; TensorFlow's read [N, size, size, 3]."""
    b = Builder()
    x = b.add(
        "Flatten",
        b.add("GlobalAveragePool", b.conv(b.add("Transpose", "x", perm=[0, 3, 1, 2]), 3, 48)),
    )
    path = b.save(tmp_path / "g.onnx", x, size=16)
    model = onnx.load(str(path))
    model.graph.node.append(helper.make_node("ReduceL2", [x], ["norm"], axes=[1], keepdims=1))
    model.graph.output.insert(0, helper.make_tensor_value_info("norm", TensorProto.FLOAT, None))
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[1].dim_value, dims[3].dim_value = 16, 3
    onnx.save(model, str(path))
    encoder, faces = load_onnx_encoder(path, cache=tmp_path), torch.rand(2, 3, 16, 16)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    values = ((faces - 0.5) / 0.5).permute(0, 2, 3, 1).contiguous().numpy()
    expected = F.normalize(torch.from_numpy(session.run([x], {"x": values})[0]), dim=1)
    torch.testing.assert_close(encoder(faces), expected, atol=1e-5, rtol=0)


def test_other_inputs_and_outputs_are_refused(tmp_path: Path) -> None:
    path = iresnet(tmp_path / "r.onnx", width=4, size=32)
    original = onnx.load(str(path))
    changes: dict[str, Any] = {
        "float32": lambda g: setattr(g.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT16),
        "expected .N, 3": lambda g: setattr(
            g.input[0].type.tensor_type.shape.dim[1], "dim_value", 1
        ),
        "2 outputs": lambda g: g.output.append(helper.make_tensor_value_info("conv_0", 1, None)),
        "expected one picture": lambda g: g.input.append(g.output[0]),
        "no supported output": lambda g: g.node[3].input.__setitem__(0, "nowhere"),
    }
    for problem, change in changes.items():
        model = onnx.ModelProto()
        model.CopyFrom(original)
        change(model.graph)
        onnx.save(model, str(path))
        with pytest.raises(UnsupportedGraph, match=problem):
            read_onnx(path)


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = iresnet(tmp_path / "r.onnx", width=4, size=32)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelFileError, match="not a whole ONNX file"):
        load_onnx_encoder(path, cache=tmp_path)
    with pytest.raises(ModelFileError, match="no file"):
        load_onnx_encoder(tmp_path / "none.onnx", cache=tmp_path)


def test_a_wrong_conversion_is_caught_before_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fluxguard_core.recognition.onnx import operators

    path = iresnet(tmp_path / "r.onnx", size=32)
    sound = operators.OPERATORS["PRelu"]
    monkeypatch.setitem(
        operators.OPERATORS, "PRelu", lambda node: lambda x, s: F.prelu(x, 0.9 * s.flatten())
    )
    with pytest.raises(UnsupportedGraph, match="differs from onnxruntime"):
        load_onnx_encoder(path, cache=tmp_path)
    half_detached = lambda node: lambda x, s: F.prelu((x + x.detach()) / 2, s.flatten())  # noqa: E731
    monkeypatch.setitem(operators.OPERATORS, "PRelu", half_detached)
    with pytest.raises(UnsupportedGraph, match="gradients differ"):
        load_onnx_encoder(path, cache=tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    monkeypatch.setitem(operators.OPERATORS, "PRelu", sound)
    graph, proof = convert_onnx(path, cache=tmp_path)
    assert proof.embedding_error < 1e-6 and proof.derivative_error < 1e-6
    x = torch.rand(1, 3, 32, 32)
    assert derivative_error(GraphNetwork(graph), x, torch.Generator().manual_seed(3)) < 1e-6


class _Kinked(torch.nn.Module):
    """A linear map with a small kink at pictures of 0.5, whose slope there a difference sees half of."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(8, 48, generator=generator))
        self.bias = torch.nn.Parameter(torch.randn(8, generator=generator))
        self.kink = torch.nn.Parameter(torch.randn(8, 48, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        moved = x.flatten(1) - 0.5
        return moved @ self.weight.T + self.bias + 2e-5 * moved.relu() @ self.kink.T


def test_a_right_gradient_is_accepted_along_directions_that_lie_across_it() -> None:
    x = torch.full((1, 3, 4, 4), 0.5)
    errors = [
        derivative_error(_Kinked(), x, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
        for seed in range(30)
    ]
    assert 1e-7 < max(errors) <= DERIVATIVE_TOLERANCE


def test_the_second_time_needs_neither_onnx_nor_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sface(tmp_path / "s.onnx")
    first = load_onnx_encoder(path, cache=tmp_path / "cache")
    real = builtins.__import__

    def guarded(name: str, *rest: Any) -> Any:
        if name.split(".")[0] in {"onnx", "onnxruntime"} and not (
            rest and len(rest) > 3 and rest[3]
        ):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", guarded)
    second = load_onnx_encoder(path, cache=tmp_path / "cache")
    faces = torch.rand(2, 3, 112, 112)
    assert torch.equal(first(faces), second(faces))
    assert (second.mean, second.std) == (first.mean, first.std)
    (copy,) = (tmp_path / "cache").iterdir()
    copy.write_bytes(copy.read_bytes()[:-5])
    with pytest.raises(Exception, match="pip install onnx"):
        load_onnx_encoder(path, cache=tmp_path / "cache")
    monkeypatch.undo()
    assert torch.equal(load_onnx_encoder(path, cache=tmp_path / "cache")(faces), first(faces))


def test_a_changed_file_is_converted_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy belongs to the bytes of its source, not to a name; and to this version of the converter."""
    from fluxguard_core.recognition.onnx import cache

    path, copies, faces = tmp_path / "r.onnx", tmp_path / "cache", torch.rand(1, 3, 32, 32)
    vectors = []
    for dimension in (32, 48):
        iresnet(path, width=4, size=32, dimension=dimension)
        encoder = load_onnx_encoder(path, cache=copies)
        vectors.append(encoder(faces))
        torch.testing.assert_close(
            vectors[-1], runtime(path, (faces - 0.5) / 0.5), atol=1e-5, rtol=0
        )
    assert [vector.shape[1] for vector in vectors] == [32, 48] and len(list(copies.iterdir())) == 2
    stamps = {copy: copy.stat().st_mtime_ns for copy in copies.iterdir()}
    load_onnx_encoder(path, cache=copies)
    assert stamps == {copy: copy.stat().st_mtime_ns for copy in copies.iterdir()}
    monkeypatch.setattr(cache, "FORMAT", "another")
    load_onnx_encoder(path, cache=copies)
    assert sum(copy.stat().st_mtime_ns != stamps[copy] for copy in copies.iterdir()) == 1


def test_without_onnxruntime_the_reference_evaluator_proves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    _, proof = convert_onnx(iresnet(tmp_path / "r.onnx", width=4, size=32), cache=tmp_path)
    assert "reference evaluator" in proof.reference and proof.embedding_error < 1e-5


def test_weights_loaded_in_inference_mode_still_give_gradients(tmp_path: Path) -> None:
    path = iresnet(tmp_path / "r.onnx", width=4, size=32)
    with torch.inference_mode():
        encoder = load_onnx_encoder(path, cache=tmp_path)
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    encoder(x)[0, 0].backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_the_real_r50_layout(tmp_path: Path) -> None:
    """43.6 M parameters at 112 px: the size of w600k_r50.onnx (174.4 MB)."""
    path = iresnet(tmp_path / "r50.onnx", 64, (3, 4, 14, 3), 112, 512)
    assert abs(path.stat().st_size - 174_383_860) < 200_000
    began = time.perf_counter()
    _, proof = convert_onnx(path, cache=tmp_path)
    print(f"r50: {time.perf_counter() - began:.1f} s, {proof}")
    assert proof.embedding_error < 1e-5 and proof.derivative_error < 1e-5
