"""Weights in a second file beside an ONNX file, as exporters write them for large models.

The graph names that file, and a graph may come from anywhere: so only a plain name in the same
folder is followed, and only inside the file's own bounds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...weights.errors import ModelFileError
from ...weights.loading import file_kind
from .graph import UnsupportedGraph


def data_file(model: Path, name: str) -> Path:
    """The file beside the model that a tensor's location names; an error for anything else."""
    if not name or name != Path(name).name or "\\" in name or ":" in name or name in {".", ".."}:
        raise UnsupportedGraph(
            f"{model.name} keeps its weights in {name[:80]!r}; expected a plain file name beside it. "
            "Such a graph could read any file, so it is refused.",
            "Save it again with its data inside.",
        )
    path = model.with_name(name)
    if not path.is_file():
        raise ModelFileError(
            f"{model.name} keeps its weights in {name}, which is not beside it.",
            "Put both files into one folder, under the names they were made with.",
        )
    if path.stat().st_size and file_kind(path) in {"lfs pointer", "web page"}:
        raise ModelFileError(
            f"{name}, which holds the weights of {model.name}, is a {file_kind(path)}, not data.",
            "Fetch it again.",
        )
    return path


def external_bytes(model: Path, proto: Any) -> bytes:
    """The raw values of a tensor that lies in a second file; an error where they do not lie there."""
    facts = {entry.key: entry.value for entry in proto.external_data}
    path = data_file(model, facts.get("location", ""))
    expected = _bytes(proto)
    try:
        offset, length = int(facts.get("offset", 0)), int(facts.get("length", expected))
    except ValueError:
        offset = length = -1
    if length != expected or offset < 0:
        raise ModelFileError(
            f"{model.name}: tensor {proto.name[:80]!r} of {expected:,} bytes is said to lie at "
            f"{facts.get('offset', '0')[:20]} with {facts.get('length', '?')[:20]}.",
            "Fetch both files again.",
        )
    size = path.stat().st_size
    if offset + length > size:
        raise ModelFileError(
            f"{path.name} is truncated: {model.name} reads up to byte {offset + length:,}, the file "
            f"has {size:,}.",
            "Fetch it again.",
        )
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)


def fingerprint(paths: Iterable[Path]) -> str:
    """sha256 over the contents of the data files, in order; empty where there are none."""
    digest, some = hashlib.sha256(), False
    for path in paths:
        some = True
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest() if some else ""


def _bytes(proto: Any) -> int:
    import onnx

    kind = onnx.helper.tensor_dtype_to_np_dtype(proto.data_type)
    count = 1
    for size in proto.dims:
        if size < 0:
            raise ModelFileError(f"Tensor {proto.name[:80]!r} has sizes {list(proto.dims)[:6]}.")
        count *= size
    return count * kind.itemsize
