"""The engine against the authors' released code, within 1e-4 relative in float32."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from fluxguard_core.backends.flux import pack, unpack
from fluxguard_core.faces.alignment import whole_frame
from fluxguard_core.flow import (
    Counted,
    EditControl,
    Trajectory,
    ValueInjection,
    VelocityFusion,
    generate,
    invert,
)
from fluxguard_core.protect.identity import identity_term
from fluxguard_core.protect.perceptual import feature_distance
from fluxguard_core.protect.refiner import Branches, Refiner, RefinerSettings
from fluxguard_core.protect.run import edit_and_protect
from fluxguard_core.protect.views import whole_frame_views
from fluxguard_core.recognition.ensemble import Ensemble
from fluxguard_core.recognition.identity import photo

from . import released_loop
from .golden import (
    FOLDER,
    NAMES,
    TOLERANCE,
    RefinerRun,
    Run,
    load_refiner,
    load_run,
    relative_error,
)

CPU = torch.device("cpu")


def test_there_is_a_triple_to_test() -> None:
    assert NAMES, f"no *_run.safetensors in {FOLDER}"


@pytest.fixture(scope="module", params=NAMES)
def run(request: pytest.FixtureRequest) -> Run:
    return load_run(request.param)


@pytest.fixture(scope="module")
def trajectory(run: Run) -> Trajectory:
    return invert(
        run.field("source"),
        run.tensors["latent"],
        run.tensors["schedule"],
        value_intervals=run.config["inject_steps"],
        blocks=run.blocks,
        tokens="all",
    )


def generated(run: Run, trajectory: Trajectory, controls: Sequence[EditControl]) -> torch.Tensor:
    return pack(generate(run.field("target"), trajectory, controls))


def controls_for(run: Run, trajectory: Trajectory, name: str) -> list[EditControl]:
    window = tuple(run.config["fuse_steps"])
    injection = ValueInjection(trajectory, run.config["inject_steps"], tokens="all")
    aligned = VelocityFusion(trajectory, run.mask, window)
    released = VelocityFusion(trajectory, run.mask, window, order="released")
    table: dict[str, list[EditControl]] = {
        "out_plain": [],
        "out_inject": [injection],
        "out_fuse_aligned": [aligned],
        "out_fuse_code_order": [released],
        "out_full_aligned": [injection, aligned],
        "out_full_code_order": [injection, released],
        "out_background_aligned_all": [VelocityFusion(trajectory, torch.zeros_like(run.mask))],
    }
    return table[name]


def test_inversion(run: Run, trajectory: Trajectory) -> None:
    assert relative_error(pack(trajectory.terminal), run.tensors["inverted_tokens"]) < TOLERANCE


@pytest.mark.parametrize(("stage", "name"), [(0, "velocity_start"), (1, "velocity_mid")])
def test_both_velocity_stages(run: Run, trajectory: Trajectory, stage: int, name: str) -> None:
    count = trajectory.intervals
    ours = [pack(trajectory.velocity(count - 1 - i, stage, CPU)) for i in range(count)]
    theirs = run.tensors[name]
    assert relative_error(torch.stack(ours).reshape(theirs.shape), theirs) < TOLERANCE


@pytest.mark.parametrize(
    "name",
    [
        "out_plain",
        "out_inject",
        "out_fuse_aligned",
        "out_fuse_code_order",
        "out_full_aligned",
        "out_full_code_order",
        "out_background_aligned_all",
    ],
)
def test_generation(run: Run, trajectory: Trajectory, name: str) -> None:
    ours = generated(run, trajectory, controls_for(run, trajectory, name))
    assert relative_error(ours, run.tensors[name]) < TOLERANCE


def test_the_orders_differ(run: Run) -> None:
    aligned, released = run.tensors["out_fuse_aligned"], run.tensors["out_fuse_code_order"]
    assert relative_error(aligned, released) > 10 * TOLERANCE


def test_half_a_mask_keeps_half_the_tokens(run: Run, trajectory: Trajectory) -> None:
    half = torch.zeros_like(run.mask)
    half[..., : half.shape[-1] // 4 * 2] = 1
    ours = generated(run, trajectory, [VelocityFusion(trajectory, half)])
    source, edited = pack(trajectory.source), pack(half).amax(-1).bool().expand(ours.shape[0], -1)
    assert relative_error(ours[~edited], source[~edited]) < 1e-6
    change = (ours - source).norm(dim=-1) / source.norm(dim=-1)
    assert change[edited].min() > 1e-2


def test_two_evaluations_an_interval_in_both_directions(run: Run, trajectory: Trajectory) -> None:
    source, target = Counted(run.field("source")), Counted(run.field("target"))
    batch, count = trajectory.source.shape[0], trajectory.intervals
    invert(source, run.tensors["latent"], run.tensors["schedule"], value_intervals=0)
    generate(target, trajectory)
    assert source.evaluations == target.evaluations == 2 * count * batch


def paper_refiner(golden: RefinerRun) -> Refiner:
    encoders = golden.encoders()
    attacked = golden.config["surrogates"]
    ensemble = Ensemble(
        tuple(encoders[key] for key in attacked),
        tuple(encoder for key, encoder in encoders.items() if key not in attacked),
    )
    term = identity_term(
        ensemble,
        photo(*golden.tensors["target_image"]),
        golden.tensors["clean_image"],
        whole_frame,
        push_away=False,
    )
    return Refiner(
        golden.decode,
        term,
        feature_distance(golden.features),
        whole_frame_views,
        RefinerSettings(steps=golden.config["inner_steps"]),
    )


@pytest.mark.parametrize("name", NAMES)
def test_refiner(name: str) -> None:
    golden = load_refiner(name)
    height, width = golden.config["latent_hw"]
    clean = unpack(golden.tensors["clean_tokens"], height, width)
    start = unpack(golden.tensors["start_tokens"], height, width)
    refined = paper_refiner(golden)(Branches(clean, start, clean, start, sigma=0.0, interval=0))
    assert relative_error(pack(refined.latent), golden.tensors["refined_tokens"]) < TOLERANCE
    assert len(refined.descent.log) == golden.config["inner_steps"]


ATTACKED = 5


@pytest.fixture(scope="module")
def released(run: Run) -> tuple[released_loop.Network, torch.Tensor, torch.Tensor]:
    golden, network = load_refiner(NAMES[0]), released_loop.Network(run)
    with torch.no_grad():
        caches = released_loop.inverted(network, pack(run.tensors["latent"]).double())
        assert relative_error(caches.noise, run.tensors["inverted_tokens"]) < 1e-5
        branches = released_loop.generated(
            network,
            caches,
            lambda clean, adversarial: released_loop.refined(golden, clean, adversarial),
            ATTACKED,
        )
    return network, *branches


def test_the_plain_loop_is_the_released_one(
    run: Run, released: tuple[released_loop.Network, torch.Tensor, torch.Tensor]
) -> None:
    """The reference below, held to the authors' numbers, which are single precision, wherever they reach."""
    network, clean, _ = released
    assert relative_error(clean, run.tensors["out_full_code_order"]) < 3e-5
    assert network.evaluations == 6 * run.config["steps"]
    golden = load_refiner(NAMES[0])
    ended = released_loop.refined(
        golden, golden.tensors["clean_tokens"].double(), golden.tensors["start_tokens"].double()
    )
    assert relative_error(ended, golden.tensors["refined_tokens"]) < 1e-5


@pytest.mark.parametrize("one_batch", [True, False])
def test_both_branches_with_the_refiner_in_five_intervals(
    run: Run,
    trajectory: Trajectory,
    released: tuple[released_loop.Network, torch.Tensor, torch.Tensor],
    one_batch: bool,
) -> None:
    _, clean, adversarial = released
    result = edit_and_protect(
        run.field("target"),
        trajectory,
        controls_for(run, trajectory, "out_full_code_order"),
        paper_refiner(load_refiner(NAMES[0])),
        attacked_intervals=ATTACKED,
        one_batch=one_batch,
    )
    assert relative_error(pack(result.edited), clean) < TOLERANCE
    assert relative_error(pack(result.protected), adversarial) < TOLERANCE
    assert relative_error(adversarial, clean) > 100 * TOLERANCE
    assert len(result.log) == ATTACKED * 10
