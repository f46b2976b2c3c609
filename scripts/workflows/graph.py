"""A ComfyUI graph under construction: nodes by kind, links by output name, laid out in the end."""

from __future__ import annotations

import json
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from fluxguard_core.weights import load_manifest  # noqa: E402

from .layout import GAP, TOP, WIDTH, Layout, arrange, lanes  # noqa: E402

_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
# Nodes that show a picture or a text below their widgets once they have run.
_SHOWS = {
    "PreviewImage": 260,
    "LoadImage": 260,
    "SaveImage": 260,
    "FluxGuard_TextToMask": 220,
    "FluxGuard_FacePicker": 220,
    "FluxGuard_MiniFaceFinder": 220,
    "FluxGuard_MiniPortrait": 240,
    "FluxGuard_AttributePrivacy": 240,
    "FluxGuard_LatentRefiner": 150,
    "FluxGuard_ProtectLatent": 150,
    "FluxGuard_PrivacyReport": 420,
    "FluxGuard_ShieldEdits": 320,
    "FluxGuard_ShieldTraining": 320,
    "FluxGuard_ShieldCloning": 320,
    "FluxGuard_ShieldTester": 420,
}
Link = tuple[int, str]
SOCKET = 0  # origin of links that come from a subgraph's inputs


@dataclass
class Flow:
    """A graph under construction: stages of nodes, links by output name."""

    schemas: dict[str, Any]
    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    stages: list[tuple[str, list[int]]] = field(
        default_factory=list
    )  # titles, and ids of their nodes
    below: dict[int, int] = field(default_factory=dict)  # node -> the one it stands under
    subgraphs: list[dict[str, Any]] = field(
        default_factory=list
    )  # definitions that nodes stand for
    sockets: dict[str, str] = field(default_factory=dict)  # inputs of a subgraph: name -> type
    width: int = WIDTH
    gap: int = GAP

    def stage(self, title: str) -> None:
        """Start the next stage, framed and titled."""
        self.stages.append((title, []))

    def note(self, text: str, height: int = 200, *, below: int | None = None) -> None:
        """A note in the current stage."""
        self._append("MarkdownNote", height, [], [], [text], {}, None, below)

    def node(
        self,
        kind: str,
        /,
        links: dict[str, Link] | None = None,
        title: str | None = None,
        models: tuple[str, ...] = (),
        below: int | None = None,
        shows: int | None = None,
        **values: Any,
    ) -> int:
        """Add a node, under another one where it only shows it; widgets keep their defaults unless given.

        ``shows`` is the room in pixels for what it shows once it has run; None takes what is usual for its kind.
        """
        inputs, widgets, extra = self._inputs(kind, links or {}, values)
        outputs = [
            {"name": name, "type": wire, "links": [], "slot_index": i}
            for i, (name, wire) in enumerate(
                zip(self.schemas[kind]["output_name"], self.schemas[kind]["output"], strict=True)
            )
        ]
        rows = max(sum("widget" not in entry for entry in inputs), len(outputs))
        height = 34 + 20 * rows + 24 * len(widgets) + extra
        height += _SHOWS.get(kind, 0) if shows is None else shows
        properties: dict[str, Any] = {"Node name for S&R": kind}
        if models:
            properties["models"] = [_model(name) for name in models]
        return self._append(kind, height, inputs, outputs, widgets, properties, title, below)

    def subgraph(self, definition: dict[str, Any], links: dict[str, Link], height: int) -> int:
        """Add a node that stands for a blueprint's graph."""
        known = {entry["name"] for entry in definition["inputs"]}
        assert set(links) <= known, f"{definition['name']} has no inputs {set(links) - known}"
        inputs = [
            {
                "name": entry["name"],
                "type": entry["type"],
                "link": self._connect(links[entry["name"]], slot)
                if entry["name"] in links
                else None,
            }
            for slot, entry in enumerate(definition["inputs"])
        ]
        outputs = [
            {"name": entry["name"], "type": entry["type"], "links": [], "slot_index": i}
            for i, entry in enumerate(definition["outputs"])
        ]
        self.subgraphs.append(definition)
        shown = {"proxyWidgets": definition["extra"]["shown"]}
        return self._append(
            definition["id"], height, inputs, outputs, [], shown, definition["name"], None
        )

    def _inputs(
        self, kind: str, links: dict[str, Link], values: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], list[Any], int]:
        inputs: list[dict[str, Any]] = []
        widgets: list[Any] = []
        extra = 0
        known = set()
        for section in ("required", "optional"):
            for name, spec in self.schemas[kind]["input"].get(section, {}).items():
                known.add(name)
                wire, options = spec[0], spec[1] if len(spec) > 1 else {}
                is_widget = isinstance(wire, list) or wire in _WIDGETS
                entry: dict[str, Any] = {
                    "name": name,
                    "type": "COMBO" if isinstance(wire, list) else wire,
                }
                if is_widget and not options.get("forceInput"):
                    entry["widget"] = {"name": name}
                    widgets += self._values(name, wire, options, values)
                    extra += 70 if options.get("multiline") else 0
                    extra += 36 if options.get("multi_select") or options.get("multiselect") else 0
                elif section == "optional":
                    entry["shape"] = 7
                if "widget" not in entry or name in links:
                    entry["link"] = (
                        self._connect(links[name], len(inputs)) if name in links else None
                    )
                    inputs.append(entry)
        unknown = (set(links) | {v.split("__")[0] for v in values}) - known
        assert not unknown, f"{kind} has no inputs {unknown}"
        return inputs, widgets, extra

    @staticmethod
    def _values(name: str, wire: Any, options: dict[str, Any], values: dict[str, Any]) -> list[Any]:
        choices = wire if isinstance(wire, list) else options.get("options", [])
        if wire == "COMFY_DYNAMICCOMBO_V3":
            key = values.get(name, choices[0]["key"])
            nested = next(option["inputs"] for option in choices if option["key"] == key)
            found = [key]
            for inner, spec in nested.get("required", {}).items():
                if spec[0] in _WIDGETS:
                    found += Flow._values(f"{name}__{inner}", spec[0], spec[1], values)
            return found
        default = options.get("default", choices[0] if choices else "")
        found = [values.get(name, default)]
        return [*found, "fixed"] if options.get("control_after_generate") else found

    def _connect(self, link: Link, slot: int) -> int:
        origin, output = link
        if origin == SOCKET:
            index = list(self.sockets).index(output)
            number, target = len(self.links) + 1, len(self.nodes) + 1
            self.links.append([number, -10, index, target, slot, self.sockets[output]])
            return number
        node = self.nodes[origin - 1]
        (index,) = [i for i, o in enumerate(node["outputs"]) if o["name"] == output]
        number = len(self.links) + 1
        node["outputs"][index]["links"].append(number)
        target = len(self.nodes) + 1
        self.links.append([number, origin, index, target, slot, node["outputs"][index]["type"]])
        return number

    def _append(
        self,
        kind: str,
        height: int,
        inputs: list[Any],
        outputs: list[Any],
        widgets: list[Any],
        properties: dict[str, Any],
        title: str | None,
        below: int | None,
    ) -> int:
        number = len(self.nodes) + 1
        node = {
            "id": number,
            "type": kind,
            "pos": [0, 0],
            "size": [self.width, height],
            "flags": {},
            "order": number - 1,
            "mode": 0,
            "inputs": inputs,
            "outputs": outputs,
            "properties": properties,
            "widgets_values": widgets,
        }
        if title:
            node["title"] = title
        self.nodes.append(node)
        self.stages[-1][1].append(number)
        if below is not None:
            self.below[number] = below
        return number

    def document(self) -> dict[str, Any]:
        """The workflow as the front end reads it."""
        layout = self.arranged()
        return {
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": layout.groups,
            "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [60, 60]}, **lanes(layout)},
            "version": 0.4,
            **({"definitions": {"subgraphs": self.subgraphs}} if self.subgraphs else {}),
        }

    def arranged(self) -> Layout:
        """Every node in its place."""
        layout = Layout(self.nodes, self.links, self.stages, self.below, gap=self.gap)
        arrange(layout)
        return layout


def definition(
    flow: Flow,
    name: str,
    about: str,
    outputs: dict[str, Link],
    shown: list[tuple[int, str]],
    *,
    apart: str = "",
) -> dict[str, Any]:
    """The definition of a graph as one node: ``sockets`` become its inputs, ``shown`` widgets appear on it."""
    layout = flow.arranged()
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"fluxguard/{name}{apart}"))
    ends = []
    for i, (label, (origin, output)) in enumerate(outputs.items()):
        node = flow.nodes[origin - 1]
        (index,) = [k for k, o in enumerate(node["outputs"]) if o["name"] == output]
        number = len(flow.links) + 1
        wire = node["outputs"][index]["type"]
        node["outputs"][index]["links"].append(number)
        flow.links.append([number, origin, index, -20, i, wire])
        ends.append(
            {"id": _identity(identity, label), "name": label, "type": wire, "linkIds": [number]}
        )
    starts = [
        {
            "id": _identity(identity, f"in {label}"),
            "name": label,
            "type": wire,
            "linkIds": [link[0] for link in flow.links if link[1] == -10 and link[2] == i],
        }
        for i, (label, wire) in enumerate(flow.sockets.items())
    ]
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return {
        "id": identity,
        "version": 1,
        "state": {
            "lastGroupId": len(flow.stages),
            "lastNodeId": len(flow.nodes),
            "lastLinkId": len(flow.links),
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": name,
        "inputNode": {"id": -10, "bounding": [-300, TOP, 160, 40 + 20 * len(starts)]},
        "outputNode": {"id": -20, "bounding": [layout.right + 140, TOP, 160, 40 + 20 * len(ends)]},
        "inputs": starts,
        "outputs": ends,
        "widgets": [],
        "nodes": flow.nodes,
        "groups": layout.groups,
        "links": [dict(zip(keys, link, strict=True)) for link in flow.links],
        "extra": {"shown": [[str(number), widget] for number, widget in shown]},
        "category": "FluxGuard",
        "description": about,
    }


def instance(of: dict[str, Any]) -> dict[str, Any]:
    """A blueprint's file: one node that stands for the definition."""
    node = {
        "id": 1,
        "type": of["id"],
        "pos": [100, 100],
        "size": [380, 320],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [{"name": s["name"], "type": s["type"], "link": None} for s in of["inputs"]],
        "outputs": [{"name": s["name"], "type": s["type"], "links": []} for s in of["outputs"]],
        "properties": {"proxyWidgets": of["extra"]["shown"]},
        "widgets_values": [],
        "title": of["name"],
    }
    return {
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [node],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [of]},
        "extra": {},
    }


def _identity(base: str, label: str) -> str:
    return str(uuid.uuid5(uuid.UUID(base), label))


def _model(name: str) -> dict[str, str]:
    entry = load_manifest()[name]
    assert entry.url is not None
    return {"name": entry.file, "url": entry.url, "directory": entry.folder}


def write(path: Path, document: dict[str, Any]) -> None:
    """Write a workflow or a blueprint, readable and stable."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(path.name)
