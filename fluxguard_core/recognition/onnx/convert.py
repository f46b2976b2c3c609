"""ONNX recogniser to FaceEncoder: read, prove, keep the converted copy."""

from __future__ import annotations

from pathlib import Path

import torch

from ...weights.download import file_sha256
from ...weights.loading import check_file
from ...weights.manifest import Entry, load_manifest
from ...weights.where import converted_root
from ..encoder import Colour, FaceEncoder
from ..thresholds import PUBLISHED, calibrated
from .cache import fetch, store
from .graph import Graph, input_range
from .network import GraphNetwork
from .reader import read_onnx
from .verify import NORMALISATION, Proof, verify


def load_onnx_encoder(
    path: str | Path,
    *,
    name: str | None = None,
    colour: Colour | None = None,
    size: int = 112,
    cache: Path | None = None,
) -> FaceEncoder:
    """A frozen, differentiable recogniser from an ONNX file (insightface, AuraFace, SFace, ...).

    The first time the file is converted and proven (see `verify`), which needs the onnx package;
    the copy kept in `cache` serves afterwards. `colour` is the channel order the model was trained
    on ("bgr" for AdaFace, else "rgb"); `size` counts only where the file leaves it open. Thresholds are the
    user's own calibration beside the file, else the published ones of a file in the manifest.

    Raises ModelFileError for unusable files, UnsupportedGraph for graphs that are refused.
    """
    file = Path(path)
    check_file(file, None)
    sha256 = file_sha256(file)
    entry = _listed(sha256)
    # Weights made under inference mode could never take part in a gradient.
    with torch.inference_mode(False):
        graph, _ = convert_onnx(file, size=size, cache=cache, sha256=sha256)
        network = GraphNetwork(graph)
    mean, std = NORMALISATION[input_range(graph)]
    known = PUBLISHED.get(entry.id.replace("-", "_"), ()) if entry else ()
    label = name or (entry.id if entry else file.stem)
    encoder = FaceEncoder(label, network, graph.size, mean, std, colour or "rgb", known)
    return calibrated(encoder, file, chosen=colour)


def convert_onnx(
    path: Path, *, size: int = 112, cache: Path | None = None, sha256: str | None = None
) -> tuple[Graph, Proof]:
    """The proven graph of an ONNX file and its proof, from the cache where it is there."""
    sha256 = sha256 or file_sha256(path)
    copy = (cache if cache is not None else converted_root()) / f"{sha256}-{size}.safetensors"
    kept = fetch(copy, sha256)
    if kept is not None:
        return kept
    graph = read_onnx(path, size=size)
    proof = verify(path, graph, GraphNetwork(graph))
    store(copy, graph, proof, sha256)
    return graph, proof


def _listed(sha256: str) -> Entry | None:
    for entry in load_manifest().entries:
        if entry.sha256 == sha256:
            return entry
    return None
