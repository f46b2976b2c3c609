"""No silent no-op: what cannot work says so on the node, and says what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from .graphs import Builder, GoldenGraph
from .server import Server


def test_a_foreign_model(server: Server) -> None:
    """A Chroma-like transformer is not taken for FLUX.1: here a FLUX with Fill's input channels."""
    from safetensors.torch import load_file

    state = load_file(server.base / "models" / "diffusion_models" / "open_flux.safetensors")
    weight = state["img_in.weight"]
    state["img_in.weight"] = torch.cat([weight] * 6, 1).contiguous()
    save_file(state, server.base / "models" / "diffusion_models" / "fill.safetensors")
    graph = GoldenGraph()
    graph.graph[graph.model[0]]["inputs"]["unet_name"] = "fill.safetensors"
    graph.sample(graph.model)
    assert "Fill" in server.fails(graph.graph)


def test_the_edit_patches_before_the_inversion(server: Server) -> None:
    graph = GoldenGraph()
    again = graph.invert(graph.inject(graph.model))
    graph.add("FluxGuard_SaveTrajectory", trajectory=[again, 0], filename_prefix="x")
    assert "already carries Attention-V Injection" in server.fails(graph.graph)


def test_a_step_skipping_cache_at_the_inversion(server: Server) -> None:
    graph = GoldenGraph()
    again = graph.invert(graph.link("Probe_SkippingCache", model=graph.model))
    graph.add("FluxGuard_SaveTrajectory", trajectory=[again, 0], filename_prefix="x")
    assert "step-skipping cache" in server.fails(graph.graph)


def test_a_step_skipping_cache_at_the_injection(server: Server) -> None:
    graph = GoldenGraph()
    graph.sample(graph.link("Probe_SkippingCache", model=graph.inject(graph.model)))
    message = server.fails(graph.graph)
    assert "never passed by it" in message and "switch it off" in message


def test_a_trajectory_without_values(server: Server) -> None:
    graph = GoldenGraph()
    graph.graph[graph.inversion]["inputs"]["value_intervals"] = 0
    graph.sample(graph.inject(graph.model))
    assert "holds no attention values" in server.fails(graph.graph)


def test_more_intervals_than_were_kept(server: Server) -> None:
    graph = GoldenGraph()
    graph.sample(graph.inject(graph.model, intervals=7))
    assert "kept them for 3" in server.fails(graph.graph)


def test_a_grid_that_does_not_match(server: Server) -> None:
    """Sampling on another model's schedule above the trajectory's first σ."""
    graph = GoldenGraph()
    graph.graph[graph.inversion]["inputs"]["sigmas"] = _basic_sigmas(graph, denoise=0.6)
    graph.sample(graph.fuse(graph.model), sigmas=_basic_sigmas(graph, denoise=1.0))
    assert "outside the trajectory's grid" in server.fails(graph.graph)


def _start(graph: GoldenGraph) -> str:
    return graph.add("FluxGuard_TrajectoryStart", model=graph.model, trajectory=graph.trajectory)


def _basic_sigmas(graph: GoldenGraph, denoise: float) -> list[Any]:
    return graph.link(
        "BasicScheduler", model=graph.model, scheduler="simple", steps=10, denoise=denoise
    )


def test_other_noise(server: Server) -> None:
    graph = GoldenGraph()
    noise = graph.link("RandomNoise", noise_seed=1)
    graph.sample(graph.fuse(graph.model), noise=noise)
    assert "Trajectory Start" in server.fails(graph.graph)


def test_ancestral_noise(server: Server) -> None:
    graph = GoldenGraph()
    sampler = graph.link("KSamplerSelect", sampler_name="euler_ancestral")
    graph.sample(graph.fuse(graph.model), sampler)
    assert "adds noise on the way" in server.fails(graph.graph)


def test_a_noise_mask(server: Server) -> None:
    graph = GoldenGraph()
    masked = graph.link(
        "Probe_Latent", latent="run.safetensors:latent", copies=1, crop=0, noise_mask=True
    )
    graph.sample(graph.fuse(graph.model), latent_image=masked)
    assert "noise mask" in server.fails(graph.graph)


def test_flipped_sigmas(server: Server) -> None:
    graph = GoldenGraph()
    flipped = graph.link("FlipSigmas", sigmas=[_start(graph), 1])
    graph.sample(graph.model, sigmas=flipped)
    assert "RF Inversion" in server.fails(graph.graph)


def test_an_empty_mask(server: Server) -> None:
    graph = GoldenGraph()
    graph.sample(graph.fuse(graph.model, times=0.0))
    assert "mask is empty" in server.fails(graph.graph)


def test_a_mask_of_another_picture(server: Server) -> None:
    graph = GoldenGraph()
    mask = graph.link("SolidMask", value=1.0, width=64, height=96)
    graph.sample(graph.fuse(graph.model, mask=mask))
    assert "64 x 96" in server.fails(graph.graph)


def test_another_size_of_picture(server: Server) -> None:
    graph = GoldenGraph()
    other = graph.link(
        "Probe_Latent", latent="run.safetensors:latent", copies=1, crop=4, noise_mask=False
    )
    graph.sample(graph.fuse(graph.model), latent_image=other)
    assert "holds latents" in server.fails(graph.graph)


@pytest.mark.parametrize(
    ("kind", "word"),
    [("control", "ControlNet"), ("reference_latents", "Kontext"), ("twice", "2 conditionings")],
)
def test_conditionings_that_cannot_be_retraced(server: Server, kind: str, word: str) -> None:
    graph = GoldenGraph()
    graph.source = graph.link("Probe_Tagged", conditioning=graph.source, kind=kind)
    again = graph.invert(graph.model)
    graph.add("FluxGuard_SaveTrajectory", trajectory=[again, 0], filename_prefix="x")
    assert word in server.fails(graph.graph)


def test_reference_latents_beside_the_injection(server: Server) -> None:
    graph = GoldenGraph()
    node = graph.sample(graph.inject(graph.model))
    sampler = graph.graph[graph.graph[node]["inputs"]["samples"][0]]["inputs"]
    guider = graph.graph[sampler["guider"][0]]["inputs"]
    guider["conditioning"] = graph.link(
        "Probe_Tagged", conditioning=guider["conditioning"], kind="reference_latents"
    )
    assert "reference latents" in server.fails(graph.graph)


def test_blocks_that_do_not_exist(server: Server) -> None:
    graph = GoldenGraph()
    graph.graph[graph.inversion]["inputs"]["blocks"] = "single 20-37"
    graph.sample(graph.model)
    assert "single blocks 0 to 23" in server.fails(graph.graph)


def test_an_empty_latent(server: Server) -> None:
    graph = GoldenGraph()
    empty = graph.link("EmptySD3LatentImage", width=128, height=128, batch_size=1)
    graph.graph[graph.inversion]["inputs"]["latent"] = empty
    graph.sample(graph.model)
    assert "nothing to invert" in server.fails(graph.graph)


def test_a_latent_of_another_model(server: Server) -> None:
    graph = GoldenGraph()
    empty = graph.link("EmptyLatentImage", width=128, height=128, batch_size=1)
    graph.graph[graph.inversion]["inputs"]["latent"] = empty
    graph.sample(graph.model)
    assert "ae.safetensors" in server.fails(graph.graph)


def test_a_missing_recogniser_file(server: Server) -> None:
    graph = Builder()
    ensemble = graph.link(
        "FluxGuard_FREnsembleLoader",
        attacked={"__value__": ["ir152"]},
        held_out={"__value__": []},
        weighting="equal",
    )
    graph.add("PreviewAny", source=ensemble)
    message = server.fails(graph.graph)
    assert "ir152" in message and "fluxguard/recognisers" in message


def test_words_without_a_face(server: Server) -> None:
    graph = Builder()
    image = graph.link("EmptyImage", width=64, height=64, batch_size=1, color=0)
    mask = graph.link(
        "FluxGuard_TextToMask",
        image=image,
        text="red lipstick",
        source_text="",
        method="auto",
        combine="add",
        grow=0,
        feather=0,
        face_index=0,
    )
    graph.add("MaskPreview", mask=mask)
    assert "Detect Face Landmarks" in server.fails(graph.graph)
