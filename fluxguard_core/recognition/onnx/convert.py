"""ONNX recogniser to FaceEncoder: read, prove, keep the converted copy."""

from __future__ import annotations

from pathlib import Path

import torch

from ...errors import FluxGuardError
from ...weights.download import file_sha256
from ...weights.errors import ModelFileError
from ...weights.loading import check_file
from ...weights.manifest import Entry, load_manifest
from ...weights.where import converted_root
from ..encoder import Colour, FaceEncoder
from ..input import InputNote, parse_note, told
from ..thresholds import PUBLISHED, calibrated
from .cache import fetch, store
from .external import data_file
from .graph import Graph, UnsupportedGraph, input_range
from .network import GraphNetwork
from .proto import data_names, load_proto
from .reader import check_embedding, read_onnx
from .verify import NORMALISATION, Proof, verify


def load_onnx_encoder(
    path: str | Path,
    *,
    name: str | None = None,
    colour: Colour | None = None,
    size: int = 112,
    note: InputNote | None = None,
    cache: Path | None = None,
) -> FaceEncoder:
    """A frozen, differentiable recogniser from an ONNX file (insightface, AuraFace, SFace, ...).

    The first time the file is converted and proven (see `verify`), which needs the onnx package;
    the copy kept in `cache` serves afterwards. How it is fed is said by `note`, else by the note
    beside the file, else by the file's manifest entry, else read off the graph; `colour` overrides
    the channel order ("bgr" for AdaFace, else "rgb"), and `size` counts only where the file and the
    notes leave it open. Thresholds are the user's own calibration beside the file, else the
    published ones of a file in the manifest.

    Raises ModelFileError for unusable files, UnsupportedGraph for graphs that are refused.
    """
    file = Path(path)
    check_file(file, None)
    sha256 = file_sha256(file)
    entry = _listed(sha256)
    said = told(file, note, colour).over(_entry_note(entry))
    # Weights made under inference mode could never take part in a gradient.
    with torch.inference_mode(False):
        graph, _ = convert_onnx(file, size=said.size or size, cache=cache, sha256=sha256)
        network = GraphNetwork(graph)
    if said.size not in (None, graph.size):
        raise UnsupportedGraph(
            f"{file.name} reads pictures of {graph.size} pixels, its note says {said.size}. Mend the "
            "note, or leave the size out."
        )
    mean, std = NORMALISATION[input_range(graph)]
    known = PUBLISHED.get(entry.id.replace("-", "_"), ()) if entry else ()
    label = name or (entry.id if entry else file.stem)
    encoder = said.apply(FaceEncoder(label, network, graph.size, mean, std, thresholds=known))
    return calibrated(encoder, file, chosen=colour)


def convert_onnx(
    path: Path, *, size: int = 112, cache: Path | None = None, sha256: str | None = None
) -> tuple[Graph, Proof]:
    """The proven graph of an ONNX file and its proof, from the cache where it is there."""
    sha256 = sha256 or file_sha256(path)
    copy = (cache if cache is not None else converted_root()) / f"{sha256}-{size}.safetensors"
    kept = fetch(copy, path, sha256)
    if kept is not None:
        return kept
    graph = _read(path, size)
    try:
        proof = verify(path, graph, GraphNetwork(graph))
    except UnsupportedGraph:
        if not graph.batch or not graph.freed:
            raise
        # Some exports for a fixed number of pictures hold it in their constants as well.
        graph = _read(path, size, freed=False)
        proof = verify(path, graph, GraphNetwork(graph))
    store(
        copy, graph, proof, sha256, [data_file(path, item) for item in data_names(load_proto(path))]
    )
    return graph, proof


def _read(path: Path, size: int, *, freed: bool = True) -> Graph:
    try:
        graph = read_onnx(path, size=size, freed=freed)
        check_embedding(path, graph)
    except FluxGuardError:
        raise
    except Exception as error:  # a damaged file may hold anything in any place
        raise ModelFileError(
            f"{path} does not hang together as an ONNX file ({type(error).__name__}).",
            "Fetch it again.",
        ) from error
    return graph


def _entry_note(entry: Entry | None) -> InputNote:
    """What the manifest says of a listed file's input."""
    if entry is None or entry.input is None:
        return InputNote()
    return parse_note(entry.input, f"The manifest's entry {entry.id}")


def _listed(sha256: str) -> Entry | None:
    for entry in load_manifest().entries:
        if entry.sha256 == sha256:
            return entry
    return None
