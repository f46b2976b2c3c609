"""The subgraph blueprints wired to the miniature, as a person would do it."""

from __future__ import annotations

import json
from typing import Any

from ..host.server import PACK, Server

SEED = 349
SOURCE = "a person with long brown hair, white clothes, pink background"
TARGET = "a person with long brown hair, wearing red lipstick, white clothes, pink background"
# What is typed into the blueprint's own widgets, in their order.
TYPED: dict[str, list[Any]] = {
    "Edit face with text": [SOURCE, TARGET, "red lipstick", 12],
    "Edit and protect a face": [SOURCE, TARGET, "red lipstick", 12, 3],
    "Protect face": ["default", 3],
}
_LOADERS: dict[str, tuple[str, list[Any]]] = {
    "model": ("UNETLoader", ["fluxguard-mini-flux.safetensors", "default"]),
    "clip": ("FluxGuard_LoadMiniTextEncoder", []),
    "vae": ("VAELoader", ["fluxguard-mini-vae.safetensors"]),
    "image": ("FluxGuard_MiniPortrait", [SEED, "fixed", 1, 128]),
    "ensemble": (
        "FluxGuard_MiniRecognisers",
        [["mini-ir", "mini-irse", "mini-facenet"], ["mini-mobileface"], "equal"],
    ),
}


def wired(server: Server, name: str) -> dict[str, Any]:
    """A workflow: loaders of the miniature, its face finder, one blueprint, Save Image."""
    document = json.loads((PACK / "subgraphs" / f"{name}.json").read_text("utf-8"))
    (node,) = document["nodes"]
    nodes, links = [node], []

    def add(kind: str, widgets: list[Any], inputs: dict[str, list[Any]] | None = None) -> int:
        number = len(nodes) + 1
        slots = []
        for slot, (label, (origin, output, wire)) in enumerate((inputs or {}).items()):
            links.append([len(links) + 1, origin, output, number, slot, wire])
            slots.append({"name": label, "type": wire, "link": len(links)})
        nodes.append(_node(number, kind, widgets, slots))
        return number

    def socket(label: str, origin: int, output: int = 0) -> None:
        (slot,) = [i for i, entry in enumerate(node["inputs"]) if entry["name"] == label]
        links.append([len(links) + 1, origin, output, 1, slot, node["inputs"][slot]["type"]])
        node["inputs"][slot]["link"] = len(links)

    made = {label: add(*_LOADERS[label]) for label in _LOADERS if _has(node, label)}
    for label, origin in made.items():
        socket(label, origin)
    image = {"image": [made["image"], 0, "IMAGE"]}
    socket("faces", add("FluxGuard_MiniFaceFinder", ["largest"], image))
    add("SaveImage", ["fluxguard/blueprint"], {"images": [1, 0, "IMAGE"]})
    return {
        **document,
        "nodes": nodes,
        "links": links,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "extra": {"typed": TYPED[name]},
    }


def _has(node: dict[str, Any], label: str) -> bool:
    return any(entry["name"] == label for entry in node["inputs"])


def _node(number: int, kind: str, widgets: list[Any], inputs: list[Any]) -> dict[str, Any]:
    return {
        "id": number,
        "type": kind,
        "pos": [-420, 130 * number],
        "size": [320, 100],
        "flags": {},
        "order": number,
        "mode": 0,
        "inputs": inputs,
        "properties": {"Node name for S&R": kind},
        "widgets_values": widgets,
    }
