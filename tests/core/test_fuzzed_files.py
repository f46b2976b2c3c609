"""Damaged files of every kind: cut at every twentieth, 200 changed headers each. Words, and nothing else.

Each kind runs in a process of its own that may take 1 GiB beyond what its imports take, and two minutes.
"""

from __future__ import annotations

import io
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.pictures.files import read_picture
from fluxguard_core.pictures.formats import readable_formats
from fluxguard_core.weights.loading import contents_of, load_tensors

ROOM = 1 << 30
HEADER = 400  # bytes in which the fields of a header are changed
CHANGED = 200


def picture_bytes(format: str) -> bytes:
    rows, columns = np.mgrid[:96, :128]
    pixels = np.stack([rows * 2, columns, (rows * columns) % 256], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    extra: dict[str, object] = {}
    if format in ("PNG", "JPEG", "WEBP", "AVIF"):
        extra["exif"] = exif
    if format == "PNG":
        notes = PngImagePlugin.PngInfo()
        notes.add_text("workflow", "node " * 500, zip=True)
        extra["pnginfo"] = notes
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=format, **extra)
    return stream.getvalue()


def tensor_bytes() -> bytes:
    tensors = {
        f"blocks.{i}.{name}": torch.arange(float(8 + i))
        for i in range(6)
        for name in ("weight", "bias")
    }
    return save(tensors, metadata={"made": "here"})


def onnx_bytes() -> bytes:
    """A recogniser's export: convolution, slopes, a reshape by constants, an embedding of 64."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    chance = np.random.default_rng(3)
    tensors = {
        "w": chance.normal(0, 0.3, (8, 3, 3, 3)),
        "s": np.full((8, 1, 1), 0.2),
        "f": chance.normal(0, 0.05, (64, 8 * 8 * 8)),
        "b": np.zeros(64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[4, 4], pads=[1, 1, 1, 1]),
        helper.make_node("PRelu", ["c", "s"], ["p"]),
        helper.make_node("Reshape", ["p", "n"], ["r"]),
        helper.make_node("Gemm", ["r", "f", "b"], ["y"], transB=1),
    ]
    weights = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in tensors.items()]
    weights.append(numpy_helper.from_array(np.array([-1, 512], np.int64), "n"))
    picture = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 32, 32])
    rows = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])
    graph = helper.make_graph(nodes, "g", [picture], [rows], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def damaged(whole: bytes, seed: int) -> Iterator[bytes]:
    """Cuts at every twentieth, then changed headers: single bytes, runs of one value, and insertions."""
    yield from (whole[: len(whole) * part // 20] for part in range(20))
    chance = random.Random(seed)
    for _ in range(CHANGED):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 4, 8))):
            at = chance.randrange(min(HEADER, len(data)))
            kind = chance.randrange(4)
            if kind == 0:
                data[at] = chance.randrange(256)
            elif kind == 1:
                data[at] ^= 1 << chance.randrange(8)
            elif kind == 2:
                run = chance.choice((2, 4, 8))
                data[at : at + run] = bytes([chance.choice((0, 127, 255))]) * run
            else:
                data[at:at] = bytes(chance.randrange(256) for _ in range(3))
        yield bytes(data)


def try_all(folder: Path, suffix: str, whole: bytes, read: Callable[[Path], object]) -> None:
    """Read every damaged version; anything but a result or words is told with its number."""
    read_whole = folder / f"whole{suffix}"
    read_whole.write_bytes(whole)
    read(read_whole)
    path = folder / f"damaged{suffix}"
    for number, data in enumerate(damaged(whole, seed=len(whole))):
        path.write_bytes(data)
        try:
            read(path)
        except FluxGuardError as error:
            assert str(error).strip(), number
        except BaseException as error:
            raise AssertionError(f"{suffix}, version {number}: {type(error).__name__}") from error


def kinds() -> dict[str, tuple[str, Callable[[], bytes]]]:
    pictures = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "TGA", "AVIF")
    found = {name: (f".{name.lower()}", lambda name=name: picture_bytes(name)) for name in pictures}
    return {name: value for name, value in found.items() if name in readable_formats()}


def run_child(kind: str, folder: Path) -> None:
    """In the child: what is asked for, within the room."""
    if kind == "onnx":
        import onnxruntime  # noqa: F401

        from fluxguard_core.recognition.onnx import load_onnx_encoder
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, most))
    if kind == "safetensors":
        try_all(folder, ".safetensors", tensor_bytes(), load_tensors)
        try_all(folder, ".safetensors", tensor_bytes(), contents_of)
        return
    if kind == "onnx":
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        try_all(folder, ".onnx", onnx_bytes(), load_onnx_encoder)
        return
    suffix, whole = kinds()[kind]
    try_all(folder, suffix, whole(), read_picture)


@pytest.mark.skipif(sys.platform != "linux", reason="the room of a process is read from /proc")
@pytest.mark.parametrize("group", ["safetensors", "onnx", "pictures"])
def test_damaged_files_get_words(tmp_path: Path, group: str) -> None:
    if group == "onnx":
        pytest.importorskip("onnxruntime")
    names = list(kinds()) if group == "pictures" else [group]
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.core.test_fuzzed_files import run_child\n"
    )
    code += "for kind in sys.argv[2:]: run_child(kind, Path(sys.argv[1]))\n"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *names],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
