"""Converted graphs on disk: tensors as safetensors, nodes as JSON in its metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...weights.errors import ModelFileError
from ...weights.loading import load_tensors
from .external import fingerprint
from .graph import Graph, Node
from .verify import Proof

FORMAT = "fluxguard-onnx-2"
"""Raised whenever the reader or an operator changes its meaning, so old copies are made anew."""


def store(
    path: Path, graph: Graph, proof: Proof, source_sha256: str, data: Sequence[Path] = ()
) -> None:
    """Write a converted and proven graph, whole or not at all; `data` are the source's further files."""
    from safetensors.torch import save_file

    outline = {
        "input": graph.input,
        "output": graph.output,
        "size": graph.size,
        "batch": graph.batch,
        "freed": graph.freed,
        "shape": graph.shape,
        "channels_last": graph.channels_last,
        "nodes": [asdict(node) for node in graph.nodes],
        "tensors": list(graph.tensors),
    }
    metadata = {
        "format": FORMAT,
        "source_sha256": source_sha256,
        "data": json.dumps([file.name for file in data]),
        "data_sha256": fingerprint(data),
        "graph": json.dumps(outline),
        "proof": proof.as_text(),
    }
    tensors = {str(i): t.contiguous() for i, t in enumerate(graph.tensors.values())}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata=metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def fetch(path: Path, source: Path, source_sha256: str) -> tuple[Graph, Proof] | None:
    """The stored graph of that ONNX file, or None when there is none that can be trusted.

    Weights that the source keeps in further files must be there and unchanged.
    """
    if not path.is_file():
        return None
    try:
        tensors, metadata = load_tensors(path)
        if (metadata.get("format"), metadata.get("source_sha256")) != (FORMAT, source_sha256):
            return None
        data = [source.with_name(name) for name in json.loads(metadata["data"])]
        if fingerprint(data) != metadata["data_sha256"]:
            return None
        return _graph(json.loads(metadata["graph"]), tensors), Proof(
            **json.loads(metadata["proof"])
        )
    except (ModelFileError, OSError, ValueError, KeyError, TypeError):
        return None


def _graph(outline: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Graph:
    nodes = tuple(
        Node(row["op"], tuple(row["inputs"]), row["output"], row["attributes"])
        for row in outline["nodes"]
    )
    named = {name: tensors[str(i)] for i, name in enumerate(outline["tensors"])}
    return Graph(
        outline["input"],
        outline["output"],
        outline["size"],
        nodes,
        named,
        outline["batch"],
        outline["freed"],
        tuple(outline["shape"]),
        outline["channels_last"],
    )
