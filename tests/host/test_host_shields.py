"""The shields in a real host: exact gradients, an untouched MODEL, the shipped graphs, a stop that keeps what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .miniature import find, graph_of, original, pictures
from .scripts import found as found_in
from .server import Server
from .test_host_workflows import messages


def test_gradients_are_exact_and_the_model_stays(installation: tuple[Path, Path]) -> None:
    """Against central differences and diffusers, checkpointed and not; LoRAs count; nothing of MODEL is written."""
    found = found_in(installation, "shield_check.py")
    for what in ("latent", "prompt", "reference"):
        for how in ("recomputed", "kept"):
            assert found[f"{what} {how}"] < 1e-3, (what, how, found)
    assert found["both ways"] < 1e-5 and found["diffusers"] < 1e-4 and found["maps"] < 1e-4
    assert len(found["shares"]) == 4 and all(0 < share < 1 for share in found["shares"])
    assert found["lora moves"] > 0.1 and found["lora goes"] == 0
    assert 4 < found["budget"] <= 8.001 and "8 of 255" in found["report"]
    assert found["trainer"][1] > found["trainer"][0]
    assert found["untouched"] and found["interrupted"] and found["error"] == "told"
    assert found["training flag"] is False and found["hooks"] == 0


def test_shield_edits(server: Server) -> None:
    graph = graph_of("shield-edits")
    node = find(graph, "FluxGuard_ShieldEdits")
    graph[node]["inputs"]["steps"] = 6
    outcome = server.result(graph)
    before, after = original(graph), pictures(server, outcome, find(graph, "SaveImage"))
    change = 255 * (after - (before * 255).round() / 255)
    assert 4 < float(change.abs().max()) <= 8.5
    report, verdict = (str(outcome.outputs[n]["text"][0]) for n in (node, _tester(graph)))
    assert "of 255 used" in report and "distance" in report
    assert "edits against each other" in verdict and "latent distance" in verdict


def _tester(graph: dict[str, Any]) -> str:
    return find(graph, "FluxGuard_ShieldTester")


def test_shield_person(server: Server) -> None:
    graph = graph_of("shield-person")
    graph[find(graph, "FluxGuard_ShieldTraining")]["inputs"]["rounds"] = 1
    graph[find(graph, "FluxGuard_ShieldCloning")]["inputs"]["steps"] = 6
    outcome = server.result(graph)
    before, after = original(graph), pictures(server, outcome, find(graph, "SaveImage"))
    change = (255 * (after - (before * 255).round() / 255)).abs()
    assert float(change[..., :4, :4].max()) <= 7.5 < float(change.max()) <= 18.5
    told = str(outcome.outputs[_tester(graph)]["text"][0])
    assert "mini-ir (attacked)" in told and "mini-vit (took no part)" in told
    assert "Recognisers that took no part" in told


@pytest.mark.parametrize("preset", ["balanced", "kontext"])
def test_other_presets_run_and_a_missing_model_is_told(server: Server, preset: str) -> None:
    graph = graph_of("shield-edits")
    node = find(graph, "FluxGuard_ShieldEdits")
    keep = {
        node,
        *(str(link[0]) for link in graph[node]["inputs"].values() if isinstance(link, list)),
    }
    models = {
        n
        for n, e in graph.items()
        if e["class_type"] in ("UNETLoader", "FluxGuard_LoadMiniTextEncoder")
    }
    prompt = find(graph, "CLIPTextEncode")
    small = {n: graph[n] for n in (*keep, *models, prompt)}
    small[node]["inputs"] |= {"preset": preset, "steps": 2}
    small["p"] = {"class_type": "PreviewImage", "inputs": {"images": [node, 0]}}
    assert "input model" in server.fails(small)
    unet = next(n for n in models if graph[n]["class_type"] == "UNETLoader")
    small[node]["inputs"] |= {"model": [unet, 0], "positive": [prompt, 0]}
    outcome = server.result(small)
    assert "of 255 used" in str(outcome.outputs[node]["text"][0])


def test_a_stop_keeps_what_there_is(server: Server, socket: Any) -> None:
    graph = graph_of("shield-edits")
    node = find(graph, "FluxGuard_ShieldEdits")
    graph[node]["inputs"] |= {"steps": 1000, "seed": 5}
    prompt_id, asked = server.queue(graph), False
    for kind, data in messages(socket, prompt_id):
        if kind == "progress" and data["node"] == node and data["value"] >= 5 and not asked:
            server.post("/interrupt")
            asked = True
    outcome = server.wait(prompt_id)
    assert asked and outcome.error is None
    assert "distance" in str(outcome.outputs[node]["text"][0])
    before, after = original(graph), pictures(server, outcome, find(graph, "SaveImage"))
    assert float((255 * (after - before)).abs().max()) > 2
