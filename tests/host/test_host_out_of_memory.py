"""A card that is too small for the protection's gradients, in a real server: the edit is never lost."""

from __future__ import annotations

import torch

from .miniature import find, graph_of, original, pictures
from .server import Graph, Outcome, Server


def on_a_small_card(name: str, failures: int) -> Graph:
    """A graph whose protection finds no memory for so many decodes with gradients."""
    graph = graph_of(name)
    kinds = {entry["class_type"] for entry in graph.values()}
    kind = "LatentRefiner" if "FluxGuard_LatentRefiner" in kinds else "ProtectLatent"
    protecting = graph[find(graph, f"FluxGuard_{kind}")]["inputs"]
    vae = {"vae_name": "fluxguard-mini-vae.safetensors", "failures": failures}
    graph["narrow"] = {"class_type": "Probe_NarrowVae", "inputs": vae, "_meta": {"title": ""}}
    protecting["vae"] = ["narrow", 0]
    options = graph[find(graph, "FluxGuard_ProtectionOptions")]["inputs"]
    options |= {"preset.attacked_intervals": 2, "preset.steps": 1}
    output = 3 if kind == "LatentRefiner" else 2
    told = {"source": [find(graph, f"FluxGuard_{kind}"), output]}
    graph["told"] = {"class_type": "PreviewAny", "inputs": told, "_meta": {"title": ""}}
    return graph


def saved(outcome: Outcome, node: str) -> bool:
    return bool(outcome.outputs.get(node, {}).get("images"))


def test_the_edit_comes_out_and_nothing_unprotected_under_the_protected_name(
    server: Server,
) -> None:
    graph = on_a_small_card("edit-and-protect", failures=100)
    edited, protected = (
        find(graph, "PreviewImage", "Edited"), find(graph, "SaveImage", "Protected"),
    )  # fmt: skip
    outcome = server.run(graph)
    assert saved(outcome, edited) and not saved(outcome, protected)
    told = outcome.outputs["told"]["text"][0]
    assert told.startswith("NOT PROTECTED.") and "ran out of memory twice" in told
    for smaller in ("fewer random views", "smaller recognisers", "tiny VAE", "smaller picture"):
        assert smaller in told
    seen = pictures(server, outcome, edited)
    assert float((seen - original(graph)).abs().max()) > 0.05
    # the same edit as on a card that is large enough
    plain = on_a_small_card("edit-and-protect", failures=0)
    whole = server.result(plain)
    assert saved(whole, protected)
    assert float((pictures(server, whole, edited) - seen).abs().max()) < 2 / 255
    assert not torch.equal(pictures(server, whole, protected), seen)


def test_one_failure_is_made_up_for(server: Server) -> None:
    """Everything else is taken off the card and it is tried again, to the same end."""
    results = []
    for failures in (1, 0):
        graph = on_a_small_card("edit-and-protect", failures)
        outcome = server.result(graph)
        assert "NOT PROTECTED" not in outcome.outputs["told"]["text"][0]
        results.append(pictures(server, outcome, find(graph, "SaveImage", "Protected")))
    assert torch.equal(*results)


def test_without_an_edit_the_node_says_what_to_make_smaller(server: Server) -> None:
    message = server.fails(on_a_small_card("protect-existing", failures=100))
    assert "ran out of memory twice" in message and "fewer random views" in message
