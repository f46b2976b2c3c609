"""Schedules, solvers, exactness, storage and the trajectory file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fluxguard_core.backends.geometry import FLUX
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.flow import (
    Block,
    Counted,
    Layout,
    Recipe,
    Storage,
    Trajectory,
    ValueInjection,
    VelocityFusion,
    estimate_bytes,
    flux_schedule,
    generate,
    invert,
    load_trajectory,
    save_trajectory,
)
from fluxguard_core.flow.controls import paper_injection, paper_window
from fluxguard_core.flow.solvers import SOLVERS, solver_named
from fluxguard_core.pictures.geometry import crop_to

from .golden import relative_error
from .tiny import noise, tiny_stack, tiny_transformer

STEPS = 6
SOURCE, TARGET = "a plain face", "a face with red lipstick"


def inverted(latent: torch.Tensor, **settings: object) -> Trajectory:
    sigmas = flux_schedule(STEPS, FLUX.tokens_of((latent.shape[2], latent.shape[3])))
    return invert(tiny_stack().field(SOURCE, 1.0), latent, sigmas, **settings)  # type: ignore[arg-type]


def test_schedule_matches_the_published_shift() -> None:
    # μ = 0.5 + 0.65·(1024 - 256)/3840 = 0.63; σ of t = 1/2 is e^μ / (e^μ + 1).
    sigmas = flux_schedule(2, FLUX.tokens(512, 512))
    assert sigmas.tolist() == pytest.approx([1.0, 1 / (1 + 2.718281828**-0.63), 0.0])
    assert FLUX.tokens(500, 512) == 1024


def test_the_midpoint_rule_is_second_order() -> None:
    class Exponential:
        layout = Layout("test", 0, 0, 0)

        def __call__(self, latent: torch.Tensor, sigma: float, tap: object = None) -> torch.Tensor:
            return latent

    def error(solver: str, steps: int) -> float:
        grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        start = torch.ones(1, 1, 1, 1)
        end = invert(Exponential(), start, grid, solver=solver, blocks=()).terminal  # type: ignore[arg-type]
        return abs(float(end) - 2.718281828)

    assert error("midpoint", 16) / error("midpoint", 32) == pytest.approx(4, rel=0.15)
    assert error("fireflow", 16) / error("fireflow", 32) == pytest.approx(4, rel=0.35)
    assert error("euler", 16) / error("euler", 32) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("solver", ["midpoint", "fireflow", "euler"])
@pytest.mark.parametrize("shape", [(1, 16, 8, 8), (2, 16, 8, 12), (1, 16, 7, 9)])
def test_an_empty_mask_retraces_the_source(solver: str, shape: tuple[int, ...]) -> None:
    trajectory = inverted(noise(*shape), solver=solver, value_intervals=0)
    nothing = torch.zeros(1, 1, *shape[2:])
    edited = generate(
        tiny_stack().field(TARGET, 5.5), trajectory, [VelocityFusion(trajectory, nothing)]
    )
    assert relative_error(edited, trajectory.source) < 1e-6
    plain = generate(tiny_stack().field(TARGET, 5.5), trajectory)
    assert relative_error(plain, trajectory.source) > 1e-2


def test_stock_euler_retraces_a_midpoint_trajectory() -> None:
    trajectory = inverted(noise(1, 16, 8, 8), value_intervals=0)
    fusion = VelocityFusion(trajectory, torch.zeros(1, 1, 8, 8))
    edited = generate(tiny_stack().field(TARGET, 5.5), trajectory, [fusion], solver="euler")
    assert relative_error(edited, trajectory.source) < 1e-6


@pytest.mark.parametrize("size", [(70, 90), (64, 40)])
def test_odd_picture_sizes_are_padded_and_cropped(size: tuple[int, int]) -> None:
    stack = tiny_stack()
    picture = noise(1, 3, *size).sigmoid()
    latent = stack.encode(picture)
    assert latent.shape[2] == -(-size[0] // 16) * 2
    assert latent.shape[3] == -(-size[1] // 16) * 2
    assert stack.decode(latent, size).shape == picture.shape
    whole = stack.decode(latent)
    assert torch.equal(crop_to(whole, size), stack.decode(latent, size))


@pytest.mark.parametrize(("solver", "expected"), [("midpoint", 2), ("fireflow", 1), ("euler", 1)])
def test_evaluations_are_counted(solver: str, expected: int) -> None:
    field = Counted(tiny_stack().field(SOURCE, 1.0))
    invert(field, noise(2, 16, 4, 4), flux_schedule(STEPS, 4), solver=solver, value_intervals=0)  # type: ignore[arg-type]
    assert field.evaluations == 2 * SOLVERS[solver].evaluations(STEPS)
    assert SOLVERS[solver].evaluations(STEPS) == STEPS * expected + (solver == "fireflow")


def test_locate_finds_both_stages() -> None:
    trajectory = inverted(noise(1, 16, 4, 4), value_intervals=0)
    grid = trajectory.sigmas.tolist()
    at = trajectory.locate(grid[2])
    assert at is not None and (at.interval, at.stage) == (2, 0)
    at = trajectory.locate((grid[2] + grid[3]) / 2)
    assert at is not None and (at.interval, at.stage) == (2, 1)
    at = trajectory.locate(grid[2], stages=1)
    assert at is not None and (at.interval, at.stage) == (2, 1)
    assert trajectory.locate(0.75 * grid[2] + 0.25 * grid[3]) is None
    with pytest.raises(FluxGuardError, match=r"σ = 1\.2"):
        trajectory.locate(1.2)


def test_a_run_follows_the_grid_or_a_connected_part_of_it() -> None:
    trajectory = inverted(noise(1, 16, 4, 4), value_intervals=0)
    grid = trajectory.sigmas
    for part in (grid, grid[2:], grid[1:4], grid[:3].float()):
        trajectory.check_schedule(part)
    skipping = torch.cat((grid[:1], grid[2:]))
    finer = flux_schedule(2 * STEPS, 4)
    for other in (skipping, finer, grid[:-1] * 0.97, grid.flip(0)):
        with pytest.raises(FluxGuardError, match="not steps of the trajectory"):
            trajectory.check_schedule(other)
    with pytest.raises(FluxGuardError, match="outside the trajectory's grid"):
        trajectory.check_schedule(1.2 * grid)


def test_a_record_is_known_again_wherever_it_is_kept() -> None:
    z = noise(1, 16, 4, 4)
    trajectory, again = inverted(z, value_intervals=0), inverted(z, value_intervals=0)
    assert trajectory is not again and trajectory.same_record(again)
    assert not trajectory.same_record(inverted(z + 0.01, value_intervals=0))
    assert not trajectory.same_record(inverted(noise(1, 16, 4, 6), value_intervals=0))


def test_velocities_between_the_records_are_interpolated() -> None:
    trajectory = inverted(noise(1, 16, 4, 4), value_intervals=0)
    middles = ((trajectory.sigmas[:-1] + trajectory.sigmas[1:]) / 2).tolist()
    cpu = torch.device("cpu")
    first, second = (trajectory.velocity(i, 1, cpu) for i in (1, 2))
    assert torch.allclose(trajectory.velocity_near(middles[1], cpu), first)
    between = trajectory.velocity_near((middles[1] + middles[2]) / 2, cpu)
    assert torch.allclose(between, (first + second) / 2, atol=1e-6)
    assert torch.allclose(trajectory.velocity_near(1.0, cpu), trajectory.velocity(0, 1, cpu))


def test_injection_changes_the_edit_and_strength_scales_it() -> None:
    trajectory = inverted(noise(1, 16, 8, 8), value_intervals=3)
    field = tiny_stack().field(TARGET, 5.5)
    plain = generate(field, trajectory)
    off = generate(field, trajectory, [ValueInjection(trajectory, 3, strength=0.0)])
    half = generate(field, trajectory, [ValueInjection(trajectory, 3, strength=0.5)])
    full = generate(field, trajectory, [ValueInjection(trajectory, 3)])
    assert torch.equal(plain, off)
    assert 0 < relative_error(half, plain) < relative_error(full, plain)


def test_a_control_that_is_off_installs_no_hook() -> None:
    trajectory = inverted(noise(1, 16, 4, 4), value_intervals=1)
    seen: list[bool] = []

    class Watching:
        layout = tiny_stack().layout

        def __call__(self, latent: torch.Tensor, sigma: float, tap: object = None) -> torch.Tensor:
            seen.append(tap is not None)
            return torch.zeros_like(latent)

    generate(Watching(), trajectory, [ValueInjection(trajectory, 1)])
    assert seen == [True, True] + [False] * (2 * STEPS - 2)


def test_two_fusions_stack() -> None:
    trajectory = inverted(noise(1, 16, 4, 8), value_intervals=0)
    left, right = torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 4, 8)
    left[..., :4], right[..., 4:] = 1, 1
    field = tiny_stack().field(TARGET, 5.5)
    masks = [VelocityFusion(trajectory, left), VelocityFusion(trajectory, right)]
    assert relative_error(generate(field, trajectory, masks), trajectory.source) < 1e-6


def test_prompts_of_other_lengths_need_image_tokens() -> None:
    trajectory = inverted(noise(1, 16, 4, 4), value_intervals=1, tokens="all")
    longer = tiny_stack().field(TARGET, 5.5)
    with pytest.raises(FluxGuardError, match="same length"):
        generate(longer, trajectory, [ValueInjection(trajectory, 1, tokens="all")])
    generate(longer, trajectory, [ValueInjection(trajectory, 1, tokens="image")])


@pytest.mark.parametrize("solver", ["midpoint", "fireflow"])
@pytest.mark.parametrize("value_format", ["computed", "bf16", "fp8"])
def test_bytes_are_known_before_and_after(solver: str, value_format: str) -> None:
    shape = (2, 16, 8, 8)
    storage = Storage(format=value_format)  # type: ignore[arg-type]
    trajectory = inverted(noise(*shape), solver=solver, value_intervals=2, value_storage=storage)
    layout = tiny_stack().layout
    before = estimate_bytes(
        shape,
        intervals=STEPS,
        solver=solver,
        tokens=16,
        width=layout.width,
        value_intervals=2,
        blocks=len(layout.structure),
        velocity_storage=Storage(),
        value_storage=storage,
        dtype=torch.float32,
    )
    assert trajectory.bytes == before


@pytest.mark.parametrize(("storage", "limit"), [("computed", 0.0), ("bf16", 4e-3), ("fp8", 4e-2)])
def test_storage_formats_lose_what_they_say(storage: str, limit: float) -> None:
    latent = noise(1, 16, 8, 8)
    exact = inverted(latent, value_intervals=0).velocity(0, 1, torch.device("cpu"))
    kept = inverted(latent, value_intervals=0, velocity_storage=Storage(format=storage))  # type: ignore[arg-type]
    assert relative_error(kept.velocity(0, 1, torch.device("cpu")), exact) <= limit


@pytest.mark.parametrize("solver", ["midpoint", "fireflow", "euler"])
@pytest.mark.parametrize("value_format", ["computed", "fp8"])
def test_a_trajectory_survives_its_file(tmp_path: Path, solver: str, value_format: str) -> None:
    recipe = Recipe("paper", solver_named(solver).name, "all", "paper", "released", 3)
    trajectory = inverted(
        noise(1, 16, 4, 4),
        solver=solver,
        value_intervals=1,
        tokens="all",
        recipe=recipe,
        value_storage=Storage(format=value_format),  # type: ignore[arg-type]
    )
    path = tmp_path / "face.safetensors"
    save_trajectory(trajectory, path)
    loaded = load_trajectory(path)
    assert loaded.bytes == trajectory.bytes and loaded.layout == trajectory.layout
    assert loaded.recipe == trajectory.recipe == recipe
    field = tiny_stack().field(SOURCE, 5.5)
    before, after = (
        generate(field, t, [ValueInjection(t, 1, tokens="all")]) for t in (trajectory, loaded)
    )
    assert torch.equal(before, after)
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_trajectory_files_are_named(tmp_path: Path) -> None:
    trajectory = inverted(noise(1, 16, 4, 4), value_intervals=0)
    whole = tmp_path / "whole.safetensors"
    save_trajectory(trajectory, whole)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(FluxGuardError, match=r"cut\.safetensors is damaged"):
        load_trajectory(cut)
    with pytest.raises(FluxGuardError, match="no trajectory file"):
        load_trajectory(tmp_path / "none.safetensors")
    with pytest.raises(FluxGuardError, match="Could not write"):
        save_trajectory(trajectory, tmp_path / "missing" / "x.safetensors")


def test_a_foreign_model_or_size_is_refused() -> None:
    trajectory = inverted(noise(1, 16, 4, 4), value_intervals=0)
    from fluxguard_core.backends.flux import FluxField, layout_of

    for other in (tiny_transformer(seed=5), tiny_transformer(single_blocks=6)):
        stranger = FluxField(other, tiny_stack().encode_prompt(TARGET), 5.5, layout_of(other))
        with pytest.raises(FluxGuardError, match="Run the inversion again"):
            generate(stranger, trajectory)
    with pytest.raises(FluxGuardError, match=r"latent \[1, 16, 8, 8\]"):
        trajectory.check_latent(torch.Size([1, 16, 8, 8]))
    with pytest.raises(FluxGuardError, match="Expected an edit mask"):
        VelocityFusion(trajectory, torch.zeros(1, 1, 8, 8))


def test_nan_stops_the_run_with_its_sigma() -> None:
    class Broken:
        layout = Layout("test", 0, 0, 0)

        def __call__(self, latent: torch.Tensor, sigma: float, tap: object = None) -> torch.Tensor:
            return latent / 0 * 0

    with pytest.raises(FluxGuardError, match=r"NaN or infinity at σ = 0\.0000"):
        invert(Broken(), noise(1, 16, 4, 4), flux_schedule(STEPS, 4), blocks=())


def test_hidden_attention_is_not_a_silent_no_op() -> None:
    class Blind:
        layout = Layout("test", 0, 4, 128, structure=FLUX.structure_blocks(4))

        def __call__(self, latent: torch.Tensor, sigma: float, tap: object = None) -> torch.Tensor:
            return torch.zeros_like(latent)

    with pytest.raises(FluxGuardError, match="never showed its attention values"):
        invert(Blind(), noise(1, 16, 4, 4), flux_schedule(STEPS, 4))


def test_injecting_more_than_was_kept_is_refused() -> None:
    trajectory = inverted(noise(1, 16, 4, 4), value_intervals=1)
    with pytest.raises(FluxGuardError, match="first 3 intervals"):
        ValueInjection(trajectory, 3)
    with pytest.raises(FluxGuardError, match="image tokens only"):
        ValueInjection(trajectory, 1, tokens="all")


def test_published_choices_scale_with_depth_and_steps() -> None:
    assert FLUX.structure_blocks(38) == tuple(Block("single", i) for i in range(20, 38))
    assert [block.index for block in FLUX.structure_blocks(4)] == [2, 3]
    assert paper_window(25) == (5, 20) and paper_window(10) == (2, 8)
    assert paper_injection(25, 0.05) == 3 and paper_injection(25, 0.3) == 5


def test_double_blocks_can_be_kept_too() -> None:
    blocks = [Block("double", 0), Block("single", 0)]
    trajectory = inverted(noise(1, 16, 4, 4), value_intervals=1, blocks=blocks)
    assert {key[2] for key in trajectory.values} == set(blocks)
    assert {stored.data.shape[1] for stored in trajectory.values.values()} == {4}
    generate(tiny_stack().field(TARGET, 5.5), trajectory, [ValueInjection(trajectory, 1)])
