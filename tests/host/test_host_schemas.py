"""What graphs rely on: every node present, no schema changed unnoticed, words in two languages, help pages."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.workflows.__main__ import documents

from .server import PACK, Server

SNAPSHOT = Path(__file__).parent / "schemas.json"
WORKFLOWS = sorted((PACK / "workflows").glob("*.json"))
API = sorted((PACK / "workflows" / "api").glob("*.json"))
LANGUAGES = ("en", "zh")


@pytest.fixture(scope="module")
def schemas(server: Server) -> dict[str, Any]:
    return dict(server.get("/object_info"))


@pytest.fixture(scope="module")
def ours(schemas: dict[str, Any]) -> dict[str, Any]:
    return {name: schema for name, schema in schemas.items() if name.startswith("FluxGuard_")}


def _inputs(schema: dict[str, Any]) -> dict[str, Any]:
    """All inputs that a person sees."""
    found = schema["input"]
    return {**found.get("required", {}), **found.get("optional", {})}


def _essence(schema: dict[str, Any]) -> dict[str, Any]:
    """Inputs, their order, types, bounds and defaults; outputs. Not the words, not installed files."""
    inputs = {}
    for section in ("required", "optional"):
        entries = schema["input"].get(section, {})
        for name, (kind, *rest) in entries.items():
            options = dict(rest[0]) if rest else {}
            for word in ("tooltip", "display_name"):
                options.pop(word, None)
            if name in ("file", "attacked", "held_out"):
                options.pop("options", None)
            if isinstance(options.get("options"), list):
                options["options"] = json.loads(_without_words(options["options"]))
            inputs[name] = [section, kind, options]
    return {
        "inputs": inputs,
        "order": {k: v for k, v in schema["input_order"].items() if k != "hidden"},
        "outputs": list(zip(schema["output"], schema["output_name"], strict=True)),
        "output_node": schema["output_node"],
        "category": schema["category"],
    }


def _without_words(value: Any) -> str:
    def strip(item: Any) -> Any:
        if isinstance(item, dict):
            return {k: strip(v) for k, v in item.items() if k not in ("tooltip", "display_name")}
        return [strip(v) for v in item] if isinstance(item, list) else item

    return json.dumps(strip(value))


def test_no_schema_has_changed(ours: dict[str, Any]) -> None:
    """A change breaks saved graphs; where one is meant, write the snapshot anew with WRITE_SCHEMAS=1."""
    now = json.loads(json.dumps({name: _essence(ours[name]) for name in sorted(ours)}))
    if os.environ.get("WRITE_SCHEMAS"):
        SNAPSHOT.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert now == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def test_every_input_has_a_tooltip(ours: dict[str, Any]) -> None:
    missing = [
        f"{node}.{name}"
        for node, schema in ours.items()
        for name, (_, *rest) in _inputs(schema).items()
        if not rest or not rest[0].get("tooltip")
    ]
    assert not missing
    assert all(schema["description"] for schema in ours.values())
    assert all(all(schema["output_tooltips"]) for schema in ours.values())


def test_nodes_fit_an_artists_screen(ours: dict[str, Any]) -> None:
    """At most nine sockets and five widgets in sight, what a choice opens not counted; three on the refiner."""
    crowded = {}
    for node, schema in ours.items():
        every = [n for n, spec in _inputs(schema).items() if _is_widget(spec)]
        widgets = [n for n in every if not _inputs(schema)[n][1].get("advanced")]
        sockets = len(_inputs(schema)) - len(every)
        seeds = sum(bool(_inputs(schema)[n][1].get("control_after_generate")) for n in widgets)
        if sockets > 9 or len(widgets) + seeds > (3 if node == "FluxGuard_LatentRefiner" else 5):
            crowded[node] = sockets, len(widgets)
    assert not crowded


def _is_widget(spec: list[Any]) -> bool:
    kind = spec[0]
    widgets = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
    return (isinstance(kind, list) or kind in widgets) and not spec[1].get("forceInput")


def _all_specs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every input of a schema by name, those inside choices too."""
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, list) and len(item) == 2 and isinstance(item[0], str | list):
                yield name, item
            yield from _all_specs(item)
    elif isinstance(value, list):
        for item in value:
            yield from _all_specs(item)


def test_no_number_means_something_else(ours: dict[str, Any]) -> None:
    """No widget below 0 but growing, which shrinks; seeds stay as they are after a run."""
    for node, schema in ours.items():
        for name, (_, options) in _all_specs(schema["input"]):
            if not isinstance(options, dict):  # a list of two choices
                continue
            assert options.get("min", 0) >= 0 or name == "grow", (node, name)
            if name == "seed":
                assert options["control_after_generate"] == "fixed", node


def test_the_miniature_stays_in_its_category(ours: dict[str, Any]) -> None:
    for node, schema in ours.items():
        if schema["category"] != "FluxGuard/miniature":
            told = json.dumps([schema["input"], schema["output"], schema["description"]])
            assert not re.search(r"\bmini(-|ature)", told), node


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_is_translated(server: Server, ours: dict[str, Any], language: str) -> None:
    words = json.loads((PACK / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    for node, schema in ours.items():
        assert words[node]["display_name"] and words[node]["description"]
        names = set(_inputs(schema))
        assert names <= set(words[node].get("inputs", {})), node
        assert len(words[node].get("outputs", {})) == len(schema["output"]), node
    assert set(words) == set(ours)
    served = server.get("/i18n")[language]["nodeDefs"]
    assert served["FluxGuard_RFInversion"] == words["FluxGuard_RFInversion"]


def test_every_node_has_a_help_page(server: Server, ours: dict[str, Any]) -> None:
    import urllib.request

    for node, schema in ours.items():
        page = (PACK / "web" / "docs" / f"{node}.md").read_text(encoding="utf-8")
        names = _inputs(schema)
        assert all(f"`{name}`" in page for name in names), (node, names)
    address = f"{server.url}/extensions/a-pack-of-portraits/docs/FluxGuard_RFInversion.md"
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert b"# RF Inversion" in answer.read()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_use_existing_nodes_and_inputs(schemas: dict[str, Any], path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    parts = {part["id"]: part for part in document.get("definitions", {}).get("subgraphs", [])}
    inner = [node for part in parts.values() for node in part["nodes"]]
    for node in [*document["nodes"], *inner]:
        if node["type"] == "MarkdownNote":
            continue
        if node["type"] in parts:
            for side in ("inputs", "outputs"):
                given = [(entry["name"], entry["type"]) for entry in node[side]]
                assert given == [(e["name"], e["type"]) for e in parts[node["type"]][side]]
            continue
        assert node["type"] in schemas, node["type"]
        schema = schemas[node["type"]]
        inputs = {name for entries in schema["input"].values() for name in entries}
        assert {entry["name"] for entry in node["inputs"]} <= inputs, node["type"]
        assert [entry["name"] for entry in node["outputs"]] == schema["output_name"]
        for model in node["properties"].get("models", []):
            assert set(model) == {"name", "url", "directory"}
            assert model["name"] in node["widgets_values"]
            assert model["url"].startswith("https://")
    assert document["groups"]


def test_workflows_and_blueprints_are_what_their_generator_writes(schemas: dict[str, Any]) -> None:
    """A changed node changes them: `python -m scripts.workflows URL` writes them anew."""
    made = documents(schemas)
    assert {*WORKFLOWS, *(PACK / "subgraphs").glob("*.json")} == set(made)
    for path, document in made.items():
        assert json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(document)), (
            path.name
        )


def test_templates_are_served(server: Server) -> None:
    templates = server.get("/workflow_templates")["a-pack-of-portraits"]
    assert set(templates) >= {path.stem for path in WORKFLOWS}
    missing = [path.stem for path in WORKFLOWS if not path.with_suffix(".jpg").is_file()]
    assert not missing


@pytest.mark.parametrize("path", API, ids=lambda path: path.stem)
def test_api_copies_use_existing_inputs(schemas: dict[str, Any], path: Path) -> None:
    for node in json.loads(path.read_text(encoding="utf-8")).values():
        entries = schemas[node["class_type"]]["input"]
        known = {name for section in entries.values() for name in section}
        assert {name.split(".")[0] for name in node["inputs"]} <= known, node["class_type"]


def test_blueprints_are_served(server: Server) -> None:
    found = {entry["name"] for entry in server.get("/global_subgraphs").values()}
    assert {"Edit face with text", "Edit and protect a face", "Protect face"} <= found


def test_the_miniature_is_in_the_stock_loaders(schemas: dict[str, Any]) -> None:
    def choices(node: str, name: str) -> list[str]:
        kind, *rest = schemas[node]["input"]["required"][name]
        return list(kind if isinstance(kind, list) else rest[0]["options"])

    assert "fluxguard-mini-vae.safetensors" in choices("VAELoader", "vae_name")
    assert "fluxguard-mini-flux.safetensors" in choices("UNETLoader", "unet_name")
    loras = choices("LoraLoaderModelOnly", "lora_name")
    assert any(name.startswith("fluxguard-mini-") for name in loras)
