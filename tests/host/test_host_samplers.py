"""Every sampler of the host: those that add noise on the way are refused, the others retrace."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .graphs import GoldenGraph, golden_run, relative_error, saved_latent
from .server import Server

EXACT = 1e-5
# Interpolated records on ten intervals; what retraces nothing misses by more than 1.
CLOSE, NEAR = 0.4, 0.1


def samplers(server: Server) -> list[str]:
    kind, *rest = server.get("/object_info/KSamplerSelect")["KSamplerSelect"]["input"]["required"][
        "sampler_name"
    ]
    return list(kind if isinstance(kind, list) else rest[0]["options"])


def noisy_ones(server: Server, names: list[str]) -> set[str]:
    """Samplers that, without the pack, make another picture of the same start when the seed changes."""
    runs: list[dict[str, torch.Tensor]] = []
    for seed in (1, 2):
        graph, saved = GoldenGraph(), {}
        noise = graph.link("Probe_Noise", noise="run.safetensors:latent", seed=seed)
        guider = graph.link(
            "CFGGuider",
            model=graph.model,
            positive=graph.prompt("target"),
            negative=graph.prompt("source"),
            cfg=1.0,
        )
        for i, name in enumerate(names):
            sampler = graph.link("KSamplerSelect", sampler_name=name)
            # SIGMAS of its own for each, since the host's UniPC writes into them: denoise keeps them apart.
            sigmas = graph.link(
                "BasicScheduler",
                model=graph.model,
                scheduler="simple",
                steps=4,
                denoise=1 - i / 1000,
            )
            saved[name] = graph.sample(
                graph.model, sampler, noise=noise, guider=guider, sigmas=sigmas
            )
        outcome = server.result(graph.graph)
        # Some CFG++ samplers divide by zero at σ = 1, with the pack and without.
        runs.append({n: saved_latent(server, outcome, s).nan_to_num() for n, s in saved.items()})
    return {name for name in names if not torch.equal(runs[0][name], runs[1][name])}


def message(server: Server, sampler: str) -> str:
    graph = GoldenGraph()
    stock = graph.link("KSamplerSelect", sampler_name=sampler)
    graph.sample(graph.fuse(graph.inject(graph.model)), stock)
    return server.fails(graph.graph)


def test_every_stock_sampler(any_server: Server) -> None:
    names = samplers(any_server)
    noisy = noisy_ones(any_server, names)
    assert {"euler_ancestral", "lcm", "er_sde", "dpmpp_2m_sde"} <= noisy
    assert not noisy & {"euler", "heun", "dpmpp_2m", "uni_pc"}
    for name in sorted(noisy):
        assert f"'{name}' adds noise on the way" in message(any_server, name), name
    unguided = {name for name in names if name.endswith("cfg_pp")} - noisy
    for name in sorted(unguided):
        assert "(CFG++)" in message(any_server, name), name
    graph, saved = GoldenGraph(), {}
    model = graph.fuse(graph.inject(graph.model), times=1e-30)
    for name in set(names) - noisy - unguided:
        saved[name] = graph.sample(model, graph.link("KSamplerSelect", sampler_name=name))
    outcome, source = any_server.result(graph.graph), golden_run(any_server)["latent"]
    errors = {
        name: relative_error(saved_latent(any_server, outcome, node), source)
        for name, node in saved.items()
    }
    print(any_server.log.parent.name, sorted(noisy), errors)
    assert len(errors) >= 15 and max(errors.values()) < CLOSE, errors
    assert max(errors[name] for name in ("dpm_2", "heun", "heunpp2", "exp_heun_2_x0")) < NEAR
    assert errors["euler"] < EXACT and errors["ddim"] < EXACT


def test_options_that_switch_the_noise_off(server: Server) -> None:
    """eta = 0 makes an ancestral sampler plain Euler, which retraces exactly; with eta it is refused."""
    graph = GoldenGraph()
    quiet = graph.link("SamplerEulerAncestral", eta=0.0, s_noise=1.0)
    node = graph.sample(graph.fuse(graph.model, times=1e-30), quiet)
    ours = saved_latent(server, server.result(graph.graph), node)
    assert relative_error(ours, golden_run(server)["latent"]) < EXACT
    graph.graph[quiet[0]]["inputs"]["eta"] = 0.3
    assert "adds noise on the way" in server.fails(graph.graph)


def test_unipc_does_not_harm_the_schedule(server: Server) -> None:
    """The host's UniPC writes into the SIGMAS that it is given; the trajectory's stay as they are."""
    graph = GoldenGraph()
    model = graph.fuse(graph.model, times=1e-30)
    saved = [
        graph.sample(model, graph.link("KSamplerSelect", sampler_name=name))
        for name in ("uni_pc", "euler")
    ]
    graph.graph[saved[1]]["inputs"]["filename_prefix"] = "latents/after"
    server.result({k: v for k, v in graph.graph.items() if k != saved[1]})
    outcome, source = server.result(graph.graph), golden_run(server)["latent"]
    assert saved[0] in outcome.cached
    assert relative_error(saved_latent(server, outcome, saved[1]), source) < EXACT


def foreign(kind: str, **changes: Any) -> tuple[GoldenGraph, str]:
    graph = GoldenGraph(**changes)
    sampler = graph.link("Probe_Sampler", kind=kind)
    return graph, graph.sample(graph.fuse(graph.model, times=1e-30), sampler)


def test_a_foreign_sampler_that_adds_noise(server: Server) -> None:
    """Neither its name nor the seed tells of it."""
    graph, _ = foreign("noisy")
    text = server.fails(graph.graph)
    assert "'nice_sampler' adds noise on the way" in text and "stock euler" in text


@pytest.mark.parametrize("kind", ["nice", "own"])
def test_foreign_samplers_without_noise(server: Server, kind: str) -> None:
    """Also one that cannot be tried beforehand."""
    graph, node = foreign(kind)
    ours = saved_latent(server, server.result(graph.graph), node)
    assert relative_error(ours, golden_run(server)["latent"]) < EXACT
