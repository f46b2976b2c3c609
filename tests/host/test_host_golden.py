"""The golden numbers through the nodes, in a real server and with the stock loader."""

from __future__ import annotations

import pytest
import torch

from fluxguard_core.flow import load_trajectory

from .graphs import (
    GoldenGraph,
    Link,
    golden_run,
    pack,
    relative_error,
    saved_latent,
    saved_trajectory,
)
from .server import Server

TOLERANCE = 1e-4
EXACT = 1e-5  # float32 rounding over ten steps
CPU = torch.device("cpu")
_WINDOW = {"window": "custom", "window.first": 2, "window.last": 7}


def test_inversion(any_server: Server) -> None:
    graph = GoldenGraph()
    graph.add(
        "FluxGuard_SaveTrajectory", trajectory=graph.trajectory, filename_prefix="fluxguard/golden"
    )
    any_server.result(graph.graph)
    expected = golden_run(any_server)
    trajectory = load_trajectory(saved_trajectory(any_server, "fluxguard/golden"))
    assert relative_error(pack(trajectory.terminal), expected["inverted_tokens"]) < TOLERANCE
    for stage, name in ((0, "velocity_start"), (1, "velocity_mid")):
        ours = [pack(trajectory.velocity(9 - i, stage, CPU)) for i in range(10)]
        theirs = expected[name]
        assert relative_error(torch.cat(ours).reshape(theirs.shape), theirs) < TOLERANCE


def test_image_tokens_are_told_from_text_in_both_kinds_of_blocks(server: Server) -> None:
    """Only the picture's values are kept, and as many in double blocks as in single ones."""
    graph = GoldenGraph()
    names = {"preset.tokens": "image", "blocks.names": "double 0, single 20-23"}
    graph.graph[graph.inversion]["inputs"]["options"] = graph.options(**names)
    graph.add(
        "FluxGuard_SaveTrajectory", trajectory=graph.trajectory, filename_prefix="fluxguard/tokens"
    )
    node = graph.sample(graph.inject(graph.model))
    outcome = server.result(graph.graph)
    trajectory = load_trajectory(saved_trajectory(server, "fluxguard/tokens"))
    height, width = trajectory.source.shape[-2:]
    shapes = {block.kind: v.data.shape[1] for (_, _, block), v in trajectory.values.items()}
    assert shapes == {"double": height * width // 4, "single": height * width // 4}
    assert trajectory.text_tokens == 0 and trajectory.recipe.tokens == "image"
    # Injected into the same prompt they change nothing, wherever the text stands.
    same = GoldenGraph()
    same.graph[same.inversion]["inputs"]["options"] = same.options(**names)
    pair = [
        same.sample(same.inject(same.model), prompt="source"),
        same.sample(same.model, prompt="source"),
    ]
    for saved in pair:
        sampler = same.graph[same.graph[saved]["inputs"]["samples"][0]]["inputs"]
        same.graph[sampler["guider"][0]]["inputs"]["conditioning"] = same.link(
            "FluxGuidance", conditioning=same.source, guidance=1.0
        )
    done = server.result(same.graph)
    assert relative_error(*(saved_latent(server, done, saved) for saved in pair)) < 0.05
    assert relative_error(saved_latent(server, outcome, node), trajectory.source) > 1e-3


def edited(graph: GoldenGraph, name: str) -> Link:
    """The MODEL with the edit patches of a golden output."""
    model = graph.model
    if "inject" in name or "full" in name:
        model = graph.inject(model)
    if name.endswith("background_aligned_all"):
        return graph.fuse(model, times=1e-30)
    if "fuse" in name or "full" in name:
        order = "released" if "code_order" in name else "aligned"
        model = graph.fuse(model, order=order, **_WINDOW)
    return model


def test_generations(any_server: Server) -> None:
    names = [
        "out_plain",
        "out_inject",
        "out_fuse_aligned",
        "out_fuse_code_order",
        "out_full_aligned",
        "out_full_code_order",
        "out_background_aligned_all",
    ]
    graph = GoldenGraph()
    saved = {name: graph.sample(edited(graph, name)) for name in names}
    outcome, expected = any_server.result(graph.graph), golden_run(any_server)
    errors = {
        name: relative_error(pack(saved_latent(any_server, outcome, node)), expected[name])
        for name, node in saved.items()
    }
    print(any_server.log.parent.name, errors)
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("solver", ["midpoint", "fireflow", "euler"])
@pytest.mark.parametrize("stepper", ["same", "stock euler"])
def test_the_background_is_exact(server: Server, solver: str, stepper: str) -> None:
    graph = GoldenGraph(solver=solver)
    stock = graph.link("KSamplerSelect", sampler_name="euler")
    node = graph.sample(graph.fuse(graph.model, times=1e-30), None if stepper == "same" else stock)
    outcome = server.result(graph.graph)
    ours = saved_latent(server, outcome, node)
    assert relative_error(ours, golden_run(server)["latent"]) < EXACT


def test_another_sampler_is_close(server: Server) -> None:
    """heun leaves the grid's evaluations; the records are then interpolated."""
    graph = GoldenGraph()
    stock = graph.link("KSamplerSelect", sampler_name="heun")
    node = graph.sample(graph.fuse(graph.model, times=1e-30), stock)
    ours = saved_latent(server, server.result(graph.graph), node)
    assert relative_error(ours, golden_run(server)["latent"]) < 0.1
