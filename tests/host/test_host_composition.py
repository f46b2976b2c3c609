"""With everything else that artists wire: LoRA, fp8, foreign patches, stacks, batches, sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from .conftest import prepare
from .graphs import GoldenGraph, golden_run, relative_error, saved_latent
from .miniature import assert_protected, find, graph_of, original, pictures
from .server import Server, running

EXACT = 1e-5


def _lora(server: Server) -> str:
    """A random LoRA on the golden network's value projections."""
    generator = torch.Generator().manual_seed(5)
    state = load_file(server.base / "models" / "diffusion_models" / "open_flux.safetensors")
    tensors = {}
    for i in range(24):
        name = f"single_blocks.{i}.linear1"
        out, width = state[f"{name}.weight"].shape
        key = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{key}.lora_down.weight"] = torch.randn(4, width, generator=generator) / 11
        tensors[f"{key}.lora_up.weight"] = torch.randn(out, 4, generator=generator) / 8
    save_file(tensors, server.base / "models" / "loras" / "random.safetensors")
    return "random.safetensors"


def test_lora(server: Server) -> None:
    """A LoRA changes the edit, leaves the kept part exact, and its model inverts as well."""
    graph = GoldenGraph()
    lora = graph.link(
        "LoraLoaderModelOnly", model=graph.model, lora_name=_lora(server), strength_model=1.0
    )
    plain = graph.sample(graph.fuse(graph.inject(graph.model)))
    styled = graph.sample(graph.fuse(graph.inject(lora)))
    kept = graph.sample(graph.fuse(lora, times=1e-30))
    graph.inversion = graph.invert(lora)
    inverted = graph.sample(graph.fuse(lora, times=1e-30))
    outcome = server.result(graph.graph)
    source = golden_run(server)["latent"]
    latents = [saved_latent(server, outcome, node) for node in (plain, styled)]
    assert relative_error(*latents) > 1e-2
    for node in (kept, inverted):
        assert relative_error(saved_latent(server, outcome, node), source) < EXACT


def test_the_order_of_patches(server: Server) -> None:
    """Injection and fusion may stack either way round."""
    graph = GoldenGraph()
    one = graph.sample(graph.fuse(graph.inject(graph.model)))
    other = graph.sample(graph.inject(graph.fuse(graph.model)))
    outcome = server.result(graph.graph)
    assert torch.equal(saved_latent(server, outcome, one), saved_latent(server, outcome, other))


def test_two_fusions(server: Server) -> None:
    """Only what both masks cover may change."""
    graph = GoldenGraph()
    height, width = golden_run(server)["latent"].shape[-2:]
    left, top = torch.zeros(1, 1, height, width), torch.zeros(1, 1, height, width)
    left[..., : width // 2] = 1
    top[..., : height // 2, :] = 1
    save_file({"left": left, "top": top}, server.base / "input" / "masks.safetensors")
    model = graph.model
    for name in ("left", "top"):
        mask = graph.link("Probe_Mask", mask=f"masks.safetensors:{name}", times=1.0)
        model = graph.fuse(model, mask=mask)
    node = graph.sample(model)
    ours = saved_latent(server, server.result(graph.graph), node)
    change = (ours - golden_run(server)["latent"]).abs().amax(1)[0]
    assert change[height // 2 :].max() < 1e-4 and change[:, width // 2 :].max() < 1e-4
    assert change[: height // 2, : width // 2].max() > 1e-2


def test_fp8_weights(server: Server) -> None:
    graph = GoldenGraph(dtype="fp8_e4m3fn")
    edit = graph.sample(graph.inject(graph.model))
    kept = graph.sample(graph.fuse(graph.model, times=1e-30))
    outcome = server.result(graph.graph)
    assert relative_error(saved_latent(server, outcome, kept), golden_run(server)["latent"]) < EXACT
    exact = GoldenGraph()
    node = exact.sample(exact.inject(exact.model))
    reference = saved_latent(server, server.result(exact.graph), node)
    assert 1e-4 < relative_error(saved_latent(server, outcome, edit), reference) < 0.5


def test_quantised_layers_of_another_pack(any_server: Server) -> None:
    """Linear layers that are no class of the host's, as GGUF loaders bring them, invert and edit."""
    graph = GoldenGraph()
    exact = graph.sample(graph.fuse(graph.inject(graph.model)))
    quantised = graph.link("Probe_QuantisedLoader", unet_name="open_flux.safetensors")
    graph.inversion = graph.invert(quantised)
    edit = graph.sample(graph.fuse(graph.inject(quantised)))
    kept = graph.sample(graph.fuse(quantised, times=1e-30))
    outcome = any_server.result(graph.graph)
    source = golden_run(any_server)["latent"]
    assert relative_error(saved_latent(any_server, outcome, kept), source) < EXACT
    latents = [saved_latent(any_server, outcome, node) for node in (edit, exact)]
    # The golden weights take three values, so 8 bits lose nothing.
    assert relative_error(*latents) < EXACT
    assert relative_error(latents[0], source) > 1e-2


def test_foreign_patches_before_and_after(server: Server) -> None:
    graph = GoldenGraph()

    def foreign(model: list[object]) -> list[object]:
        return graph.link("Probe_ForeignPatch", model=model, scale=1.3)

    plain = graph.sample(graph.inject(graph.model))
    before = graph.sample(graph.inject(foreign(graph.model)))
    after = graph.sample(foreign(graph.inject(graph.model)))
    kept = graph.sample(graph.fuse(foreign(graph.model), times=1e-30))
    outcome = server.result(graph.graph)
    latents = {n: saved_latent(server, outcome, n) for n in (plain, before, after, kept)}
    # Both patches act, and since one changes queries and one values, their order does not matter.
    assert relative_error(latents[before], latents[plain]) > 1e-3
    assert torch.equal(latents[before], latents[after])
    assert relative_error(latents[kept], golden_run(server)["latent"]) < EXACT


def _plain_graph() -> tuple[GoldenGraph, str]:
    """An ordinary generation that never meets the pack's patches."""
    graph = GoldenGraph()
    node = graph.add(
        "KSampler",
        model=graph.model,
        seed=3,
        steps=4,
        cfg=1.0,
        sampler_name="euler",
        scheduler="simple",
        positive=graph.prompt("target"),
        negative=graph.prompt("source"),
        latent_image=graph.latent,
        denoise=1.0,
    )
    return graph, graph.add("SaveLatent", samples=[node, 0], filename_prefix="latents/plain")


def test_unpatched_branches_are_untouched(server: Server) -> None:
    """The same MODEL elsewhere gives bit-identical results before, beside and after an edit."""
    graph, node = _plain_graph()
    before = saved_latent(server, server.result(graph.graph), node)
    beside, plain = _plain_graph()
    beside.sample(beside.fuse(beside.inject(beside.model)))
    # Another seed first, so that the host's cache does not answer.
    sampler = beside.graph[plain]["inputs"]["samples"][0]
    beside.graph[sampler]["inputs"]["seed"] = 4
    server.result(beside.graph)
    beside.graph[sampler]["inputs"]["seed"] = 3
    outcome = server.result(beside.graph)
    assert torch.equal(saved_latent(server, outcome, plain), before)


def test_a_batch_of_two(server: Server) -> None:
    """Each picture of a batch is edited as it would be alone."""
    graph = GoldenGraph(copies=2)
    node = graph.sample(graph.fuse(graph.inject(graph.model)))
    kept = graph.sample(graph.fuse(graph.model, times=1e-30))
    outcome = server.result(graph.graph)
    alone = GoldenGraph()
    single = alone.sample(alone.fuse(alone.inject(alone.model)))
    both = saved_latent(server, outcome, node)
    first = saved_latent(server, server.result(alone.graph), single)
    assert both.shape[0] == 2
    assert relative_error(both[:1], first) < EXACT
    source = golden_run(server)["latent"]
    sources = torch.cat([source, source.roll(1, -1)])
    assert relative_error(saved_latent(server, outcome, kept), sources) < EXACT


@pytest.mark.parametrize("crop", [4, 5])
def test_other_sizes(server: Server, crop: int) -> None:
    """A picture that is not square, and one with an odd number of latent rows."""
    graph = GoldenGraph(crop=crop)
    height = golden_run(server)["latent"].shape[-2] - crop
    mask = torch.zeros(1, 1, height, 16)
    mask[..., :8] = 1
    save_file({"mask": mask}, server.base / "input" / f"crop{crop}.safetensors")
    link = graph.link("Probe_Mask", mask=f"crop{crop}.safetensors:mask", times=1.0)
    node = graph.sample(graph.fuse(graph.inject(graph.model), mask=link))
    ours = saved_latent(server, server.result(graph.graph), node)
    source = golden_run(server)["latent"][..., :height, :]
    assert relative_error(ours[..., 8:], source[..., 8:]) < EXACT
    assert relative_error(ours[..., :8], source[..., :8]) > 1e-2


def test_a_partial_inversion(server: Server) -> None:
    """A schedule that starts below σ = 1 retraces as well."""
    graph = GoldenGraph()
    graph.graph[graph.inversion]["inputs"]["sigmas"] = graph.link(
        "BasicScheduler", model=graph.model, scheduler="simple", steps=10, denoise=0.6
    )
    node = graph.sample(graph.fuse(graph.model, times=1e-30))
    ours = saved_latent(server, server.result(graph.graph), node)
    assert relative_error(ours, golden_run(server)["latent"]) < EXACT


def test_a_saved_trajectory(server: Server) -> None:
    """An edit from a file equals the edit from the wire, without inverting again."""
    graph = GoldenGraph()
    direct = graph.sample(graph.fuse(graph.inject(graph.model)))
    graph.add(
        "FluxGuard_SaveTrajectory", trajectory=graph.trajectory, filename_prefix="fluxguard/kept"
    )
    wired = saved_latent(server, server.result(graph.graph), direct)
    later = GoldenGraph()
    file = "fluxguard/kept_00001.trajectory.safetensors [output]"
    later.inversion = later.add("FluxGuard_LoadTrajectory", file=file)
    node = later.sample(later.fuse(later.inject(later.model)))
    outcome = server.result(later.graph)
    assert torch.equal(saved_latent(server, outcome, node), wired)


@pytest.mark.parametrize(("storage", "form"), [("pinned", "bf16"), ("compute", "fp8")])
def test_where_and_how_the_record_is_kept(server: Server, storage: str, form: str) -> None:
    """Values in fewer bits change the edit a little; what is kept stays exact."""
    exact = GoldenGraph()
    reference = exact.sample(exact.inject(exact.model))
    expected = saved_latent(server, server.result(exact.graph), reference)
    graph = GoldenGraph()
    kept = graph.options(storage=storage, storage_format=form)
    graph.graph[graph.inversion]["inputs"]["options"] = kept
    edit = graph.sample(graph.inject(graph.model))
    kept = graph.sample(graph.fuse(graph.model, times=1e-30))
    outcome = server.result(graph.graph)
    assert 1e-6 < relative_error(saved_latent(server, outcome, edit), expected) < 0.3
    assert relative_error(saved_latent(server, outcome, kept), golden_run(server)["latent"]) < EXACT


def test_without_the_hosts_cache(
    installation: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp("nocache")
    prepare(base)
    with running(*installation, base, "--cache-none") as server:
        graph = GoldenGraph()
        node = graph.sample(graph.fuse(graph.inject(graph.model), times=1e-30))
        for _ in range(2):
            ours = saved_latent(server, server.result(graph.graph), node)
            assert relative_error(ours, golden_run(server)["latent"]) < EXACT
        mini = graph_of("edit-and-protect")
        outcome = server.result(mini)
        protected = pictures(server, outcome, find(mini, "SaveImage"))
        edited = pictures(server, outcome, find(mini, "PreviewImage", "Edited"))
        assert_protected(original(mini), edited, protected)
