"""The shipped miniature workflows, run to the end in a real server, and judged by their pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from .miniature import (
    assert_edited,
    assert_protected,
    find,
    graph_of,
    original,
    pictures,
)
from .scripts import found as found_in
from .server import Outcome, Server


def test_edit_only(server: Server) -> None:
    graph = graph_of("edit-only")
    outcome = server.result(graph)
    edited = pictures(server, outcome, find(graph, "SaveImage"))
    assert_edited(graph, edited)


@pytest.mark.parametrize("name", ["edit-and-protect", "batch"])
def test_edit_and_protect(server: Server, name: str) -> None:
    graph = graph_of(name)
    outcome = server.result(graph)
    protected = pictures(server, outcome, find(graph, "SaveImage"))
    edited = pictures(server, outcome, find(graph, "PreviewImage", "Edited"))
    assert len(protected) == len(original(graph))
    assert_protected(original(graph), edited, protected)
    if name != "batch":
        assert_edited(graph, edited)
    report = outcome.outputs[find(graph, "FluxGuard_PrivacyReport")]["images"]
    assert report and server.output_file(report[0]).stat().st_size > 10_000


def test_edit_and_protect_with_a_lora(server: Server) -> None:
    graph, plain = graph_of("edit-and-protect-lora"), graph_of("edit-and-protect")
    results = []
    for one in (graph, plain):
        outcome = server.result(one)
        results.append(pictures(server, outcome, find(one, "PreviewImage", "Edited")))
    assert float((results[0] - results[1]).abs().max()) > 0.02


def test_protect_existing(server: Server) -> None:
    graph = graph_of("protect-existing")
    outcome = server.result(graph)
    before, after = original(graph), pictures(server, outcome, find(graph, "SaveImage"))
    assert_protected(before, before, after)
    # The picture's corners are the original's own pixels.
    assert float((before - after).abs()[..., :8, :8].max()) < 1 / 255


def test_another_prompt_uses_the_same_inversion(server: Server) -> None:
    graph = graph_of("many-prompts")
    outcome = server.result(graph)
    saved = [n for n, entry in graph.items() if entry["class_type"] == "SaveImage"]
    assert len({pictures(server, outcome, node).numpy().tobytes() for node in saved}) == len(saved)
    prompts = [n for n, entry in graph.items() if entry["_meta"]["title"] == "Target prompt"]
    graph[prompts[0]]["inputs"]["text"] += ", smiling"
    again = server.result(graph)
    inversion = find(graph, "FluxGuard_RFInversion")
    refiners = [n for n, e in graph.items() if e["class_type"] == "FluxGuard_LatentRefiner"]
    assert inversion in again.cached
    assert len([node for node in refiners if node in again.cached]) == len(refiners) - 1


def messages(connection: Any, prompt_id: str) -> Iterator[tuple[str, Any]]:
    """Text messages as (kind, data), previews as ("preview", bytes), until the prompt has ended."""
    while True:
        message = connection.recv()
        if isinstance(message, bytes):
            yield "preview", message
            continue
        content = json.loads(message)
        yield content["type"], content["data"]
        ended = ("execution_success", "execution_error", "execution_interrupted")
        if content["type"] in ended and content["data"]["prompt_id"] == prompt_id:
            return


def test_progress_and_previews(server: Server, socket: Any) -> None:
    graph = graph_of("edit-and-protect")
    node = find(graph, "FluxGuard_LatentRefiner")
    graph[node]["inputs"]["seed"] = 11
    seen = list(messages(socket, server.queue(graph)))
    values = [d["value"] for kind, d in seen if kind == "progress" and d["node"] == node]
    totals = {d["max"] for kind, d in seen if kind == "progress" and d["node"] == node}
    assert len(totals) == 1 and values[-1] == totals.pop()
    assert values == sorted(values) and len(values) >= 12
    assert sum(kind == "preview" for kind, _ in seen) >= 12


def test_an_interrupt_in_the_middle(server: Server, socket: Any) -> None:
    graph = graph_of("edit-and-protect")
    node = find(graph, "FluxGuard_LatentRefiner")
    expected = pictures(server, server.result(graph), find(graph, "SaveImage"))
    graph[node]["inputs"]["seed"] = 12
    options = graph[find(graph, "FluxGuard_ProtectionOptions")]["inputs"]
    options["preset.steps"] = 150
    prompt_id, asked, started = server.queue(graph), False, time.monotonic()
    for kind, data in messages(socket, prompt_id):
        if kind == "progress" and data["node"] == node and data["value"] > 11 and not asked:
            server.post("/interrupt")
            asked, started = True, time.monotonic()
    assert asked and time.monotonic() - started < 20
    assert server.wait(prompt_id).error == "interrupted"
    # Usable afterwards, and right.
    graph = graph_of("edit-and-protect")
    again = pictures(server, server.result(graph), find(graph, "SaveImage"))
    assert torch.equal(again, expected)


def test_the_users_vae_is_untouched(server: Server) -> None:
    graph = graph_of("protect-existing")
    vae, after = [find(graph, "VAELoader"), 0], [find(graph, "FluxGuard_ProtectLatent"), 0]
    alone = {vae[0]: graph[vae[0]], "p": _probe(vae)}
    before = _told(server.result(alone), "p")
    told = _told(server.result({**graph, "p": _probe(vae, after=after)}), "p")
    assert told[:2] == before[:2] and told[1] == "True"
    assert int(told[2]) > 0
    released = _told(server.result({**alone, "q": _probe(vae, unload=True)}), "q")
    assert released[2] == "0" and released[0] == before[0]
    # And the pack works again after the host has taken everything back.
    graph[after[0]]["inputs"]["seed"] = 21
    assert server.result(graph).error is None


def _probe(vae: list[Any], **inputs: Any) -> dict[str, Any]:
    return {"class_type": "Probe_Vae", "inputs": {"vae": vae, "unload": False, **inputs}}


def _told(outcome: Outcome, node: str) -> list[str]:
    return str(outcome.outputs[node]["text"][0]).split()


def test_the_host_equals_the_diffusers_backend(server: Server, tmp_path: Path) -> None:
    """Inversion and a whole edit on the miniature, in ComfyUI and through diffusers, to 1e-3."""
    pytest.importorskip("diffusers")
    from fluxguard_core.flow import (
        ValueInjection,
        VelocityFusion,
        generate,
        invert,
        load_trajectory,
    )
    from fluxguard_core.mini.faces import parse_face
    from fluxguard_core.mini.world import load_stack
    from fluxguard_core.regions import parser_source, soft_mask

    from .graphs import relative_error, saved_latent, saved_trajectory

    graph = graph_of("edit-only")
    inversion, sampler = find(graph, "FluxGuard_RFInversion"), find(graph, "SamplerCustomAdvanced")
    graph["t"] = {
        "class_type": "FluxGuard_SaveTrajectory",
        "inputs": {"trajectory": [inversion, 0], "filename_prefix": "fluxguard/mini"},
    }
    graph["l"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": [sampler, 0], "filename_prefix": "latents/mini"},
    }
    outcome = server.result(graph)
    theirs = load_trajectory(saved_trajectory(server, "fluxguard/mini"))
    stack, picture = load_stack(), original(graph)
    prompts = {
        entry["_meta"]["title"][:6]: entry["inputs"]["text"]
        for entry in graph.values()
        if entry["class_type"] == "CLIPTextEncode"
    }
    ours = invert(
        stack.field(prompts["Source"], 1.0),
        stack.encode(picture),
        theirs.sigmas,
        value_intervals=theirs.value_intervals,
    )
    assert relative_error(theirs.source, ours.source) < 1e-3
    assert relative_error(theirs.terminal, ours.terminal) < 1e-3
    words = graph[find(graph, "FluxGuard_TextToMask")]["inputs"]
    from fluxguard_core.flow.controls import paper_injection
    from fluxguard_core.regions import coverage, grow

    found = parser_source(parse_face)(picture[0], words["text"], None)
    grown = grow(found.mask, words["grow"])
    mask = soft_mask(grown, 8)
    injected = paper_injection(ours.intervals, coverage(grown))  # a small mask injects less
    controls = (ValueInjection(ours, injected), VelocityFusion(ours, mask))
    edited = generate(stack.field(prompts["Target"], 5.5), ours, controls)
    assert relative_error(saved_latent(server, outcome, "l"), edited) < 1e-3


def test_gradients_are_the_engines(installation: tuple[Path, Path]) -> None:
    """d loss / d latent inside inference mode: the miniature's VAE, and one of FLUX's layout."""
    found = found_in(installation, "gradient_check.py")
    assert max(found["miniature"], found["flux"], found["sliced"]) < 1e-4
    assert found["bfloat16 is"] == "torch.bfloat16" and found["bfloat16"] > 0.99
    assert found["again"] == ["ResnetBlock"] and found["own weights"]


def test_networks_are_moved_whole_counted_and_given_back(installation: tuple[Path, Path]) -> None:
    found = found_in(installation, "memory_check.py")
    assert found.pop("freed") == 0  # none of the memory that the user's VAE still holds
    assert found.pop("kept decoders") == 0
    assert found.pop("batch") == 4
    assert len(found) == 8 and all(found.values()), found


def test_attribute_privacy(server: Server) -> None:
    graph = graph_of("attribute-privacy")
    outcome = server.result(graph)
    before, after = original(graph), pictures(server, outcome, find(graph, "SaveImage"))
    assert after.shape == before.shape and float((before - after).abs().max()) > 0.05
    # The chest, far from the hair, is the original's own pixels.
    assert float((before - after).abs()[..., -6:, 60:68].max()) < 1.01 / 255
    report = outcome.outputs[find(graph, "FluxGuard_AttributePrivacy")]["text"][0]
    assert "Black_Hair" in report and "(unseen)" in report and "still matches" in report
    node = graph[find(graph, "FluxGuard_AttributePrivacy")]
    node["inputs"]["mode.attributes"] = "Black_Hair=maybe"
    assert "NAME=yes or NAME=no" in server.fails(graph)


def test_a_cloak_is_trained_and_applied(server: Server) -> None:
    graph = graph_of("attribute-privacy")
    portrait, faces = find(graph, "FluxGuard_MiniPortrait"), find(graph, "FluxGuard_MiniFaceFinder")
    ensemble = find(graph, "FluxGuard_MiniRecognisers")
    keep = {name: graph[name] for name in (portrait, faces, ensemble)}
    train = {
        "images": [portrait, 0],
        "faces": [faces, 0],
        "ensemble": [ensemble, 0],
        "name": "test-cloak",
        "steps": 2,
        "limit": 6.0,
        "seed": 0,
    }
    keep["t"] = {"class_type": "FluxGuard_TrainCloak", "inputs": train, "_meta": {"title": "t"}}
    apply = {"images": [portrait, 0], "faces": [faces, 0], "cloak": ["t", 0]}
    keep["a"] = {"class_type": "FluxGuard_ApplyCloak", "inputs": apply, "_meta": {"title": "a"}}
    save = {"images": ["a", 0], "filename_prefix": "fluxguard/cloaked"}
    keep["s"] = {"class_type": "SaveImage", "inputs": save, "_meta": {"title": "s"}}
    outcome = server.result(keep)
    after = pictures(server, outcome, "s")
    moved = (after - original(keep)).abs() * 255
    assert 0 < float(moved.max()) < 7.0
    assert (server.base / "models" / "fluxguard" / "cloaks" / "test-cloak.safetensors").is_file()
