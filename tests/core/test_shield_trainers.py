"""LoRAs of drawn people that are really trained, and the bench that asks whom their pictures show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fluxguard_core.cli import bench_trainers
from fluxguard_core.cli.main import main
from fluxguard_core.defences.surrogates import surrogate
from fluxguard_core.evaluate.shield_rows import TrainerCell, read, trainer_table
from fluxguard_core.mini.captions import parse_caption
from fluxguard_core.mini.models import describe
from fluxguard_core.mini.trainers import (
    LoraPlan,
    judges,
    lora_pictures,
    shots_of,
    shown,
    strangers_of,
)
from fluxguard_core.mini.world import load_stack


def test_a_lora_learns_the_person_and_is_gone_afterwards() -> None:
    stack = load_stack()
    pictures, others = shots_of(0)
    before = stack.field("", 1.0)(stack.encode(pictures), 0.5)
    plan = LoraPlan(pictures=4)
    asked, trained = (
        shown(lora_pictures(stack, pictures[None], replace(plan, steps=n))[0], others, judges())
        for n in (0, 20)
    )
    assert asked.similarity is not None and trained.similarity is not None
    assert trained.similarity > asked.similarity + 0.1
    assert torch.equal(stack.field("", 1.0)(stack.encode(pictures), 0.5), before)
    own = shown(pictures, others, judges())
    assert own.found == 1 and own.match == 1


def test_sets_that_are_trained_together_do_not_see_each_other() -> None:
    stack, plan = load_stack(), LoraPlan(steps=3, pictures=1)
    sets = torch.stack([shots_of(person)[0][:2] for person in range(2)])
    both = lora_pictures(stack, sets, plan)
    for together, alone in zip(both, sets, strict=True):
        made = lora_pictures(stack, alone[None], plan)[0]
        assert (made - together).abs().max() < 2e-3
    assert (both[0] - both[1]).abs().max() > 0.05


def test_latents_move_towards_a_stranger_in_the_same_shots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_trainers, "_TOWARDS_STEPS", 8)
    pictures, shown_by = shots_of(0)[0], surrogate(load_stack())
    made = bench_trainers._towards(pictures, shown_by, 8, 0)
    assert (made - pictures).abs().max() <= 8 / 255 + 1e-6
    with torch.no_grad():
        wanted, before, after = (shown_by.encode(x) for x in (strangers_of(0), pictures, made))
    assert (after - wanted).square().mean() < 0.8 * (before - wanted).square().mean()
    own = [parse_caption(describe(one[None])).get("hat") for one in pictures]
    assert [parse_caption(describe(one[None])).get("hat") for one in strangers_of(0)] == own


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
    assert "| 0.10 [0.00, 0.20] | 0.20 [0.00, 0.33] | 0.30 |" in ours


def test_the_bench_trains_resumes_and_writes_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = bench_trainers.ARMS
    small = replace(arms["ours"], epochs=1, attention=1, conditional=1, static_steps=1)  # type: ignore[type-var]
    monkeypatch.setattr(bench_trainers, "ARMS", {**arms, "ours": small})
    given = ["bench", "trainers", "--people", "1", "--steps", "1", "-o", str(tmp_path)]
    given += ["--arm", "unprotected", "--arm", "noise", "--arm", "ours"]
    assert main(given) == 0
    assert "person 0, 8 of 255, first FLUX: unprotected, noise, ours" in capsys.readouterr().out
    cells = read(tmp_path / "trainers.jsonl", TrainerCell)
    assert [c.arm for c in cells] == ["unprotected", "noise", "ours"]
    assert cells[0].visible == 99 and all(28 < c.visible < 45 for c in cells[1:])
    assert main(given) == 0
    assert "person 0" not in capsys.readouterr().out
    assert (tmp_path / "trainers.md").read_text().startswith("| trainer |")


def test_the_measured_table_is_the_log() -> None:
    docs = Path(__file__).parents[2] / "docs"
    expected = trainer_table(read(docs / "measured" / "trainers.jsonl", TrainerCell))
    assert expected.count("\n") > 2
    assert expected in (docs / "shields.md").read_text(encoding="utf-8")
