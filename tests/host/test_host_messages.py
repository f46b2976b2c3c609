"""No silent no-op: what cannot work says so on the node, and says what to do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from .graphs import Builder, GoldenGraph, golden_run, relative_error, saved_latent
from .miniature import find, graph_of
from .server import Rejected, Server

# Names and shapes by which the host tells architectures; weights that are left out stay as they are.
_STREAMS = {
    "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
    "double_blocks.0.img_attn.norm.query_norm.scale": (128,),
    "single_blocks.0.norm.key_norm.scale": (128,),
    "img_in.weight": (128, 128),
    "txt_in.weight": (128, 64),
}
ARCHITECTURES = {
    "Flux2": {**_STREAMS, "double_stream_modulation_img.lin.weight": (768, 128)},
    "LongCatImage": {**_STREAMS, "img_in.weight": (128, 64), "txt_in.weight": (128, 3584)},
    "Chroma": {
        **_STREAMS,
        "img_in.weight": (128, 64),
        "distilled_guidance_layer.norms.0.scale": (5120,),
    },
    "SD3": {
        "joint_blocks.0.context_block.attn.qkv.weight": (192, 64),
        "x_embedder.proj.weight": (64, 16, 2, 2),
        "final_layer.linear.weight": (64, 64),
        "context_embedder.weight": (64, 96),
        "pos_embed": (1, 64, 64),
        "y_embedder.mlp.0.weight": (64, 32),
    },
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_another_architecture(server: Server, architecture: str) -> None:
    """Models that the stock loader takes for what they are; some count as a Flux in the host's classes."""
    shapes = ARCHITECTURES[architecture]
    file = server.base / "models" / "diffusion_models" / f"{architecture}.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, file)
    graph = GoldenGraph()
    graph.graph[graph.model[0]]["inputs"]["unet_name"] = file.name
    graph.sample(graph.model)
    message = server.fails(graph.graph)
    assert "Load flux1-dev" in message, message
    assert f"Expected a FLUX.1 MODEL, got {architecture} " in message, message
    file.unlink()


def test_a_flux_with_other_inputs(server: Server) -> None:
    """A FLUX with Fill's input channels."""
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
    graph.graph[graph.inversion]["inputs"]["options"] = graph.options(
        **{"preset.value_intervals": 0}
    )
    graph.sample(graph.inject(graph.model))
    assert "holds no attention values" in server.fails(graph.graph)


def test_more_intervals_than_were_kept(server: Server) -> None:
    graph = GoldenGraph()
    graph.sample(graph.inject(graph.model, window="custom", **{"window.intervals": 7}))
    assert "kept them for 3" in server.fails(graph.graph)


def test_a_grid_that_does_not_match(server: Server) -> None:
    """Sampling on another model's schedule above the trajectory's first σ."""
    graph = GoldenGraph()
    graph.graph[graph.inversion]["inputs"]["sigmas"] = _basic_sigmas(graph, denoise=0.6)
    graph.sample(graph.fuse(graph.model), sigmas=_basic_sigmas(graph, denoise=1.0))
    assert "outside the trajectory's grid" in server.fails(graph.graph)


def test_a_grid_of_other_steps(server: Server) -> None:
    """Another schedule from the same σ and noise: the background would drift, so it is refused."""
    graph = GoldenGraph()
    start = _start(graph)
    graph.sample(
        graph.fuse(graph.model),
        noise=[start, 0],
        sigmas=graph.link(
            "BasicScheduler", model=graph.model, scheduler="simple", steps=7, denoise=1.0
        ),
    )
    message = server.fails(graph.graph)
    assert "not steps of the trajectory" in message and "Trajectory Start" in message


def test_patches_of_another_picture(server: Server) -> None:
    """Two inversions of one size: the refiner follows one, Velocity Fusion holds the other."""
    graph = graph_of("edit-and-protect")
    inversion, refiner = (
        find(graph, f"FluxGuard_{kind}") for kind in ("RFInversion", "LatentRefiner")
    )
    portrait, encoder = find(graph, "FluxGuard_MiniPortrait"), find(graph, "VAEEncode")
    graph["90"] = copy.deepcopy(graph[portrait])
    graph["90"]["inputs"]["seed"] += 1
    graph["91"] = copy.deepcopy(graph[encoder])
    graph["91"]["inputs"]["pixels"] = ["90", 0]
    graph["92"] = copy.deepcopy(graph[inversion])
    graph["92"]["inputs"].update(latent=["91", 0], steps=4)
    graph[inversion]["inputs"]["steps"] = 4
    graph[refiner]["inputs"]["trajectory"] = ["92", 0]
    assert "holds another trajectory" in server.fails(graph)


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


def _controlnet(server: Server) -> str:
    """A FLUX ControlNet of the published XLabs layout: the golden network's blocks and random heads."""
    folder = server.base / "models" / "controlnet"
    state = load_file(server.base / "models" / "diffusion_models" / "open_flux.safetensors")
    width = state["img_in.weight"].shape[0]
    generator = torch.Generator().manual_seed(2)
    blocks = {int(name.split(".")[1]) for name in state if name.startswith("double_blocks.")}
    for i in blocks:
        state[f"controlnet_blocks.{i}.weight"] = torch.rand(width, width, generator=generator) / 9
        state[f"controlnet_blocks.{i}.bias"] = torch.zeros(width)
    state["pos_embed_input.weight"] = torch.rand(width, 64, generator=generator) / 9
    state["pos_embed_input.bias"] = torch.zeros(width)
    for i, channels in enumerate((3, *[16] * 7)):
        state[f"input_hint_block.{2 * i}.weight"] = torch.rand(
            16, channels, 3, 3, generator=generator
        )
        state[f"input_hint_block.{2 * i}.bias"] = torch.zeros(16)
    folder.mkdir(exist_ok=True)
    save_file(
        {k: v for k, v in state.items() if not k.startswith("single_blocks.")},
        folder / "random.safetensors",
    )
    return "random.safetensors"


def _controlled(server: Server, graph: GoldenGraph, conditioning: list[Any]) -> list[Any]:
    """The conditioning behind the stock Load and Apply ControlNet nodes."""
    net = graph.link("ControlNetLoader", control_net_name=_controlnet(server))
    image = graph.link("EmptyImage", width=128, height=128, batch_size=1, color=0x808080)
    return graph.link(
        "ControlNetApplyAdvanced",
        positive=conditioning,
        negative=conditioning,
        control_net=net,
        image=image,
        strength=0.7,
        start_percent=0.0,
        end_percent=1.0,
    )


def _inverted(graph: GoldenGraph) -> GoldenGraph:
    again = graph.invert(graph.model)
    graph.add("FluxGuard_SaveTrajectory", trajectory=[again, 0], filename_prefix="x")
    return graph


def test_a_controlnet_at_the_inversion(server: Server) -> None:
    graph = GoldenGraph()
    graph.source = _controlled(server, graph, graph.source)
    assert "carries a ControlNet" in server.fails(_inverted(graph).graph)


def _with_target(graph: GoldenGraph, node: str, change: Callable[[list[Any]], list[Any]]) -> None:
    """Change the target prompt of a stock sampler graph."""
    sampler = graph.graph[graph.graph[node]["inputs"]["samples"][0]]["inputs"]
    guider = graph.graph[sampler["guider"][0]]["inputs"]
    guider["conditioning"] = change(guider["conditioning"])


def test_a_controlnet_in_the_edit(server: Server) -> None:
    """A real one steers the edit, and what is kept stays exact."""
    graph = GoldenGraph()
    plain = graph.sample(graph.inject(graph.model))
    steered, kept = (
        graph.sample(graph.inject(graph.model)),
        graph.sample(graph.fuse(graph.model, 1e-30)),
    )
    for node in (steered, kept):
        _with_target(graph, node, lambda link: _controlled(server, graph, link))
    outcome = server.result(graph.graph)
    latents = [saved_latent(server, outcome, node) for node in (plain, steered)]
    assert relative_error(*latents) > 1e-3
    source = golden_run(server)["latent"]
    assert relative_error(saved_latent(server, outcome, kept), source) < 1e-5


def test_reference_latents_at_the_inversion(server: Server) -> None:
    graph = GoldenGraph()
    graph.source = graph.link("ReferenceLatent", conditioning=graph.source, latent=graph.latent)
    assert "Kontext" in server.fails(_inverted(graph).graph)


def test_two_conditionings_at_the_inversion(server: Server) -> None:
    graph = GoldenGraph()
    graph.source = graph.link(
        "ConditioningCombine", conditioning_1=graph.source, conditioning_2=graph.source
    )
    assert "2 conditionings" in server.fails(_inverted(graph).graph)


def test_reference_latents_beside_the_injection(server: Server) -> None:
    graph = GoldenGraph()
    node = graph.sample(graph.inject(graph.model))
    _with_target(
        graph,
        node,
        lambda link: graph.link("ReferenceLatent", conditioning=link, latent=graph.latent),
    )
    assert "reference latents" in server.fails(graph.graph)


def test_reference_latents_with_the_fusion(server: Server) -> None:
    """Without the injection they steer the edit, and what is kept stays exact."""
    graph = GoldenGraph()
    nodes = [graph.sample(graph.fuse(graph.model, times)) for times in (1.0, 1.0, 1e-30)]
    for node in nodes[1:]:
        _with_target(
            graph,
            node,
            lambda link: graph.link("ReferenceLatent", conditioning=link, latent=graph.latent),
        )
    graph.graph[nodes[1]]["inputs"]["filename_prefix"] = "latents/referenced"
    outcome = server.result(graph.graph)
    plain, steered, kept = (saved_latent(server, outcome, node) for node in nodes)
    assert relative_error(steered, plain) > 1e-3
    assert relative_error(kept, golden_run(server)["latent"]) < 1e-5


def test_blocks_that_do_not_exist(server: Server) -> None:
    graph = GoldenGraph()
    graph.graph[graph.inversion]["inputs"]["options"] = graph.options(
        **{"blocks.names": "single 20-37"}
    )
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
        colour="published",
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
        combine="add",
        grow=0,
        feather=0,
    )
    graph.add("MaskPreview", mask=mask)
    assert "Detect Face Landmarks" in server.fails(graph.graph)


def test_a_recogniser_that_judges_itself(server: Server) -> None:
    for attacked, held_out, words in (
        (["mini-ir"], ["mini-ir"], "attacked and held out at once"),
        ([], ["mini-ir"], "Choose at least one recogniser"),
    ):
        graph = Builder()
        ensemble = graph.link(
            "FluxGuard_MiniRecognisers",
            attacked={"__value__": attacked},
            held_out={"__value__": held_out},
            weighting="equal",
        )
        graph.add("PreviewAny", source=ensemble)
        assert words in server.fails(graph.graph)


def test_words_that_name_no_region(server: Server) -> None:
    graph = Builder()
    image = graph.link("FluxGuard_MiniPortrait", seed=3, count=1, size=128)
    mask = graph.link(
        "FluxGuard_TextToMask",
        image=image,
        text="in the style of a comic",
        source_text="",
        combine="add",
        grow=0,
        feather=0,
    )
    graph.add("MaskPreview", mask=mask)
    message = server.fails(graph.graph)
    assert "lips" in message and "hair" in message


def test_a_trajectory_file_that_is_not_there(server: Server) -> None:
    graph = GoldenGraph()
    graph.inversion = graph.add("FluxGuard_LoadTrajectory", file="nothing [output]")
    graph.sample(graph.fuse(graph.model))
    with pytest.raises(Rejected, match="There is no trajectory nothing"):
        server.queue(graph.graph)


def test_a_window_outside_the_trajectory(server: Server) -> None:
    graph = GoldenGraph()
    window = {"window": "custom", "window.first": 4, "window.last": 40}
    graph.sample(graph.fuse(graph.model, **window))
    assert "intervals 0 to 9, got 4 to 40" in server.fails(graph.graph)
