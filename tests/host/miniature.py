"""The shipped miniature graphs in the tests' hands: their nodes, their pictures, and what must hold of them."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from fluxguard_core.pictures.files import read_picture

from .server import PACK, Graph, Outcome, Server

API = PACK / "workflows" / "api"


def graph_of(name: str) -> Graph:
    return dict(json.loads((API / f"mini-{name}.json").read_text(encoding="utf-8")))


def find(graph: Graph, kind: str, title: str = "") -> str:
    """The id of the only node of a kind (and title)."""
    found = [
        node
        for node, entry in graph.items()
        if entry["class_type"] == kind and title in entry["_meta"]["title"]
    ]
    assert len(found) == 1, (kind, found)
    return found[0]


def pictures(server: Server, outcome: Outcome, node: str) -> Tensor:
    """The pictures of a preview or save node [B, 3, H, W]."""
    paths = [server.output_file(entry) for entry in outcome.outputs[node]["images"]]
    return torch.cat([read_picture(path).rgb for path in paths])


def original(graph: Graph) -> Tensor:
    from fluxguard_core.mini.portrait_spec import random_spec
    from fluxguard_core.mini.renderer import render_batch

    inputs = graph[find(graph, "FluxGuard_MiniPortrait")]["inputs"]
    specs = [random_spec(inputs["seed"] + i) for i in range(inputs["count"])]
    return render_batch(specs, inputs["size"])[0]


def similarities(before: Tensor, after: Tensor) -> dict[str, list[float]]:
    """Cosine of each picture to its original, by recogniser; the face is found anew in both."""
    from fluxguard_core.mini.faces import find_faces, load_ensemble
    from fluxguard_core.recognition import align

    def crop(image: Tensor, size: int) -> Tensor:
        landmarks = find_faces(image)[0].landmarks
        assert landmarks is not None
        return align(image[None], landmarks[None], size)

    found: dict[str, list[float]] = {}
    for encoder in load_ensemble(held_out=["mobileface"]).members:
        with torch.no_grad():
            found[encoder.name] = [
                float((encoder(crop(a, encoder.size)) * encoder(crop(b, encoder.size))).sum())
                for a, b in zip(before, after, strict=True)
            ]
    return found


def assert_protected(before: Tensor, edited: Tensor, protected: Tensor) -> None:
    """Every recogniser sees less of the person than in the edit; the attacked ones no longer match."""
    from fluxguard_core.mini.faces import load_recogniser

    baseline, result = similarities(before, edited), similarities(before, protected)
    for name, values in result.items():
        assert max(values) < min(baseline[name]) - 0.1, (name, baseline[name], values)
    for name in ("mini-ir", "mini-irse", "mini-facenet"):
        limit = load_recogniser(name).threshold()
        assert max(result[name]) < limit, (name, result[name], limit)


def assert_edited(graph: Graph, after: Tensor) -> None:
    """Lipstick where there was none; the rest of the picture as the autoencoder gives it back."""
    from fluxguard_core.mini.faces import classify_attributes, parse_face
    from fluxguard_core.regions import parser_source

    before = original(graph)
    assert all(found["lipstick"] == "none" for found in classify_attributes(before))
    assert all(found["lipstick"] == "red" for found in classify_attributes(after))
    words = graph[find(graph, "FluxGuard_TextToMask")]["inputs"]["text"]
    seen = parser_source(parse_face)
    mask = torch.cat([seen(one, words, None).mask for one in before])
    far = torch.nn.functional.max_pool2d(mask, 33, stride=1, padding=16) == 0
    difference = (after - before).abs().amax(1, keepdim=True)
    assert float(difference[far].mean()) < 0.04
