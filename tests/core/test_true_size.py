"""Costs with random weights: the commands on a tiny layout, and what they say without a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fluxguard_core.cli.bench_true_size import with_steps
from fluxguard_core.cli.main import main
from fluxguard_core.pipelines.phases import Loop, Meter, preset_of, run_loop
from fluxguard_core.pipelines.true_size import (
    LAYOUTS,
    matrix_peak,
    measure_evaluation,
    random_job,
    random_models,
)
from fluxguard_core.protect.presets import PRESETS

CPU = torch.device("cpu")


def test_the_layout_is_flux_1_devs() -> None:
    """11.9 thousand million parameters, as the published model has."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        model = FluxTransformer2DModel(**LAYOUTS["dev"].transformer)
    assert sum(p.numel() for p in model.parameters()) == 11_901_408_320


def test_operations_are_counted_and_compared_with_a_measured_peak() -> None:
    models = random_models("tiny", "float32", CPU, small=True)
    small, large = (measure_evaluation(models, size, 1) for size in (64, 128))
    assert large.operations > 2 * small.operations and small.share > 0
    assert matrix_peak(CPU, 64) > 0


def test_fp8_weights_rest_in_eight_bits() -> None:
    models = random_models("tiny", "fp8", CPU, small=True)
    kinds = {p.dtype for p in models.stack.transformer.parameters()}
    assert torch.float8_e4m3fn in kinds
    velocity = models.stack.field("a", 1.0)(torch.randn(1, 16, 8, 8), 0.5)
    assert bool(velocity.isfinite().all())


def test_phases_add_up_and_the_released_loop_walks_both_branches() -> None:
    models = random_models("tiny", "float32", CPU, small=True)
    loops: dict[Loop, int] = {"released": 100, "fast": 30}
    for loop, evaluations in loops.items():
        preset = with_steps(preset_of(loop), 1)
        spent = run_loop(models, random_job(models, 64, preset), loop)
        assert spent["generation"].evaluations == evaluations
        assert all(part.seconds > 0 for part in spent.values())
        assert spent["protection"].peak_bytes > 0
    assert preset_of("released") is PRESETS["paper"]


def test_a_phase_within_a_phase_interrupts_it() -> None:
    meter = Meter(CPU)
    with meter.phase("generation"), meter.phase("protection"):
        torch.randn(200, 200) @ torch.randn(200, 200)
    assert meter.spent["protection"].seconds > 0
    assert meter.spent["generation"].seconds < meter.spent["protection"].seconds + 0.05
    assert meter.spent["inversion"].seconds == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "true-size"]) == 2
    assert "no CUDA GPU here, so FLUX.1-dev's layout was not measured" in capsys.readouterr().err


def test_a_row_for_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.json"
    given = ["--layout", "tiny", "--size", "64", "--weights", "float32", "--preset", "fast"]
    assert main(["bench", "true-size", *given, "--steps", "1", "--json", str(out)]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 3 and lines[0].count("|") == lines[2].count("|") == 10
    (row,) = json.loads(out.read_text())
    assert row["size"] == 64 and row["phases"]["inversion"]["evaluations"] == 26


def test_phases_by_size_and_faces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "phases.json"
    given = ["--small", "--size", "64", "--faces", "2", "--steps", "1", "--loop", "fast"]
    assert main(["bench", "phases", *given, "--json", str(out)]) == 0
    assert "fast, 64 pixels, 2 faces" in capsys.readouterr().out
    (row,) = json.loads(out.read_text())
    assert row["faces"] == 2 and row["phases"]["generation"]["evaluations"] == 30
