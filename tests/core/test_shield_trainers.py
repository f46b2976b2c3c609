"""LoRAs of drawn people that are really trained, and the bench that asks whom their pictures show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fluxguard_core.cli import bench_trainers
from fluxguard_core.cli.main import main
from fluxguard_core.evaluate.shield_rows import TrainerCell, append, read, trainer_table
from fluxguard_core.mini.trainers import LoraPlan, judges, lora_pictures, shots_of, shown
from fluxguard_core.mini.world import load_stack


def test_a_lora_learns_the_person_and_is_gone_afterwards() -> None:
    stack = load_stack()
    pictures, others = shots_of(0)
    before = stack.field("", 1.0)(stack.encode(pictures), 0.5)
    asked = shown(lora_pictures(stack, pictures, LoraPlan(steps=0)), others, judges())
    trained = shown(lora_pictures(stack, pictures, LoraPlan(steps=20)), others, judges())
    assert asked.similarity is not None and trained.similarity is not None
    assert trained.similarity > asked.similarity + 0.1
    assert torch.equal(stack.field("", 1.0)(stack.encode(pictures), 0.5), before)
    own = shown(pictures, others, judges())
    assert own.found == 1 and own.match == 1


def test_a_picture_without_a_face_is_not_found_and_matches_nobody() -> None:
    told = shown(torch.full((2, 3, 128, 128), 0.5), shots_of(0)[1], judges()[:1])
    assert (told.found, told.match, told.similarity) == (0, 0, None)


def test_matches_are_paired_with_those_of_unprotected_pictures() -> None:
    def cell(person: int, arm: str, match: float, similarity: float | None = 0.3) -> TrainerCell:
        return TrainerCell(person, arm, 8, "first FLUX", 1.0, match, similarity, 31.0)

    cells = [cell(0, "unprotected", 0.6), cell(1, "unprotected", 0.4)]
    cells += [cell(0, "ours", 0.2), cell(1, "ours", 0.0, None)]
    clean, ours = trainer_table(cells).splitlines()[2:]
    assert "| unprotected | 2 | 1.00 [1.00, 1.00] | 0.50 [0.40, 0.60] |  |" in clean
    assert "| 0.10 [0.00, 0.20] | -0.400 [-0.400, -0.400] | 0.30 |" in ours


def test_the_bench_trains_resumes_and_writes_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = bench_trainers.ARMS
    small = replace(arms["ours"], epochs=1, attention=1, conditional=1, static_steps=1)  # type: ignore[type-var]
    monkeypatch.setattr(bench_trainers, "ARMS", {**arms, "ours": small})
    given = ["bench", "trainers", "--people", "1", "--steps", "1", "-o", str(tmp_path)]
    given += ["--arm", "unprotected", "--arm", "noise", "--arm", "ours"]
    assert main(given) == 0
    assert "person 0, 8 of 255, ours" in capsys.readouterr().out
    cells = read(tmp_path / "trainers.jsonl", TrainerCell)
    assert [c.arm for c in cells] == ["unprotected", "noise", "ours"]
    assert cells[0].visible == 99 and all(28 < c.visible < 45 for c in cells[1:])
    append(tmp_path / "trainers.jsonl", [])
    assert main(given) == 0
    assert "person 0" not in capsys.readouterr().out
    assert (tmp_path / "trainers.md").read_text().startswith("| trainer |")
