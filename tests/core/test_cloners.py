"""Adapters that clone a face from one photo, its training, and the bench that lets them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from fluxguard_core.cli.main import main
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.evaluate.cloner_rows import ClonerCell, cloner_table
from fluxguard_core.evaluate.shield_rows import read
from fluxguard_core.evaluate.statistics import ratio_of_means
from fluxguard_core.mini.cloners import (
    ENCODERS,
    LATENT,
    CloneAdapter,
    Cloner,
    adapter_path,
    face_vector,
    load_adapter,
    save_adapter,
    view_of,
)
from fluxguard_core.mini.faces import load_recogniser
from fluxguard_core.mini.loras import beside, fresh_loras
from fluxguard_core.mini.portrait_spec import Nuisance
from fluxguard_core.mini.trainers import shots_of
from fluxguard_core.mini.world import load_stack
from training.mini.commands import main as train_main


def adapters_in(folder: Path) -> None:
    """Untrained ones."""
    torch.manual_seed(0)
    for name in ENCODERS:
        encoder = load_recogniser(name)
        width = encoder(torch.zeros(1, 3, encoder.size, encoder.size)).shape[1]
        save_adapter(CloneAdapter(width, hidden=8), adapter_path(folder, name))


def test_each_part_of_a_batch_has_its_own_lora() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 4).requires_grad_(False)
    given = torch.randn(4, 3, 6)
    plain = layer(given)
    down, up = fresh_loras([layer], 2, 2)
    with beside([layer], [down, up]):
        assert torch.equal(layer(given), plain)
        with torch.no_grad():
            up[1] = torch.randn(2, 4)
        moved = layer(given)
    assert torch.equal(moved[:2], plain[:2])
    assert torch.allclose(moved[2:], plain[2:] + given[2:] @ down[1] @ up[1], atol=1e-6)
    assert torch.equal(layer(given), plain)


def test_loras_that_move_are_not_remembered_by_autocast() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 4).requires_grad_(False)
    given, (down, up) = torch.randn(2, 3, 6), fresh_loras([layer], 1, 2)
    with torch.autocast("cpu", torch.bfloat16), beside([layer], [down, up]):
        before = layer(given)
        with torch.no_grad():
            up.add_(1)
        assert not torch.equal(layer(given), before)


def test_what_an_adapter_draws_depends_on_the_face_it_reads(tmp_path: Path) -> None:
    adapters_in(tmp_path)
    encoder, (one, other) = load_recogniser("ir"), (shots_of(person)[0][:1] for person in range(2))
    adapter = load_adapter(tmp_path, "ir")
    vectors, words = (face_vector(encoder, photo) for photo in (one, other)), torch.zeros(1, 128)
    drafts = [adapter(vector, words, view_of(Nuisance())) for vector in vectors]
    assert drafts[0].shape == (1, *LATENT) and not torch.equal(*drafts)
    made = Cloner(load_stack(), adapter, encoder).pictures(one, 2, seed=3)
    assert made.shape == (2, 3, 128, 128) and made.min() >= 0 and made.max() <= 1
    assert float(face_vector(encoder, one) @ face_vector(encoder, one).T) == pytest.approx(1)
    with pytest.raises(FluxGuardError, match="detector finds none"):
        face_vector(encoder, torch.full((1, 3, 128, 128), 0.5))
    with pytest.raises(FluxGuardError, match="is not there"):
        load_adapter(tmp_path / "elsewhere", "ir")


def test_adapters_are_trained_by_command_and_go_on(tmp_path: Path) -> None:
    """Two people, two steps, then more, which learn them by heart."""
    given = ["train", "--people", "2", "--batch", "8"]
    given += ["--out", str(tmp_path), "--cache", str(tmp_path / "cache")]
    assert train_main([*given, "renderer-cache"]) == 0
    assert train_main([*given, "clone-adapter", "--steps", "2"]) == 0
    before = load_adapter(tmp_path, "ir")
    assert train_main([*given, "clone-adapter", "--steps", "102", "--resume"]) == 0
    for name in ENCODERS:
        lines = (tmp_path / f"clone-{name}.log").read_text().splitlines()
        # Knowing nothing costs the latents' own variance, about 0.8.
        assert float(lines[-2].split("loss ")[1]) < 0.4
    after = load_adapter(tmp_path, "ir")
    assert not torch.equal(before.body[0].weight, after.body[0].weight)


def test_the_bench_clones_resumes_and_writes_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fluxguard_core.cli import bench_cloners

    adapters_in(tmp_path)
    monkeypatch.setattr(bench_cloners, "_PICTURES", 1)
    given = ["bench", "cloners", "--people", "1", "--steps", "40", "--adapter", str(tmp_path)]
    given += ["-o", str(tmp_path / "out")]
    assert main(given) == 0
    assert "person 0, 11 of 255, shielded" in capsys.readouterr().out
    cells = read(tmp_path / "out" / "cloners.jsonl", ClonerCell)
    assert [(c.arm, c.encoder) for c in cells] == [
        (arm, name) for arm in bench_cloners.ARMS for name in ENCODERS
    ]
    reading = {(c.arm, c.encoder): c.reading for c in cells}
    assert all(reading["unprotected", name] == pytest.approx(1) for name in ENCODERS)
    assert reading["shielded", "ir"] < reading["noise", "ir"] - 0.3
    assert reading["shielded", "ir"] < reading["shielded", "facenet"]
    assert main(given) == 0
    assert "person 0" not in capsys.readouterr().out
    assert (tmp_path / "out" / "cloners.md").read_text().count("| 11 | ir, attacked |") == 3


def test_matches_are_paired_with_those_from_unprotected_photos() -> None:
    def cell(person: int, arm: str, match: float) -> ClonerCell:
        return ClonerCell(person, arm, 11, "ir", True, 0.1, 1.0, match, 0.5, 31.0)

    cells = [cell(0, "unprotected", 0.8), cell(1, "unprotected", 0.6)]
    cells += [cell(0, "shielded", 0.3), cell(1, "shielded", 0.1)]
    row = cloner_table(cells).splitlines()[3]
    assert row.startswith("| 11 | ir, attacked | shielded | 2 | 0.10 [0.10, 0.10] |")
    assert "| 0.20 [0.10, 0.30] | -0.50 [-0.50, -0.50] |" in row


def test_a_ratio_of_means_draws_pairs() -> None:
    told = ratio_of_means([0.1, 0.2, 0.3], [0.2, 0.4, 0.6])
    assert (told.value, told.low, told.high) == pytest.approx((0.5, 0.5, 0.5))
    wide = ratio_of_means([0.0, 0.4], [0.5, 0.5])
    assert (wide.value, wide.low, wide.high) == pytest.approx((0.4, 0.0, 0.8))
    assert math.isnan(ratio_of_means([0.1, 0.2], [0.0, 0.0]).value)


def test_the_measured_table_is_the_log() -> None:
    docs = Path(__file__).parents[2] / "docs"
    expected = cloner_table(read(docs / "measured" / "cloners.jsonl", ClonerCell))
    assert expected.count("\n") > 2
    assert expected in (docs / "shields.md").read_text(encoding="utf-8")
