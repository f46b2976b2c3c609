"""The tester's figures, the bench's rows, and attackers that really edit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fluxguard_core.cli import bench_shields
from fluxguard_core.cli.main import main
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.evaluate.change import change_of
from fluxguard_core.evaluate.quality import eight_bit
from fluxguard_core.evaluate.shield_rows import (
    Cell,
    append,
    check_settings,
    page_table,
    read,
    table,
)
from fluxguard_core.evaluate.shield_test import ShieldTester, edits_apart, side_by_side
from fluxguard_core.mini.attackers import attackers, person, second_editor, wish_for
from fluxguard_core.mini.faces import classify_attributes
from fluxguard_core.mini.renderer import render
from fluxguard_core.mini.world import load_stack

from .tiny import landmarks, noise, tiny_ensemble


def picture(seed: int = 0) -> Tensor:
    return eight_bit(noise(1, 3, 64, 64, seed=seed).sigmoid())


def test_a_changes_figures_and_words() -> None:
    one = picture()
    other = one.clone()
    other[..., 0, 0] += 3 / 255
    told = change_of(one, other)
    assert told.used == pytest.approx(3, abs=1e-3) and told.psnr > 60 and told.face is None
    assert "3 of 255 used" in told.told()
    assert change_of(one, one).to_dict()["psnr"] is None
    assert change_of(one[..., :8, :8], other[..., :8, :8]).ssim is None


def test_a_tester_says_what_it_measured_and_nothing_else() -> None:
    one, other = picture(), eight_bit(picture() + 8 / 255 * noise(1, 3, 64, 64, seed=2).sign())
    alone = ShieldTester().test(one, other)
    assert "Only the change was measured" in alone.verdict and not alone.recognisers
    points = landmarks()[0]
    tester = ShieldTester(tiny_ensemble(), {"half": lambda x: x / 2})
    found = tester.test(one, other, points, (one, picture(5)))
    assert [seen.attacked for seen in found.recognisers] == [True, True, False]
    distances = found.distances[0].values
    expected = float((other / 2 - one / 2).square().mean().sqrt())
    assert distances["as it is"] == pytest.approx(expected, rel=1e-4)
    assert distances["Blur 1 px"] < distances["as it is"]  # blur takes noise away
    assert "the edit was disturbed" in found.verdict
    assert "Recognisers that took no part: " in found.verdict
    assert "as it came out" not in found.table() and "JPEG 75" in found.table()
    same = tester.test(one, one, points, (one, one))
    assert same.recognisers[0].values["as it is"] == pytest.approx(1, abs=1e-5)
    assert "nearly as it does without" in same.verdict
    assert same.to_dict()["edits"]["psnr"] is None
    with pytest.raises(FluxGuardError, match="must have one size"):
        tester.test(one, one[..., :32])


def test_pictures_stand_side_by_side_on_white() -> None:
    row = side_by_side([picture(), picture()[..., :32, :]], gap=4)
    assert row.shape == (1, 3, 64, 64 + 4 + 64)
    assert (row[..., 64:68] == 1).all() and (row[..., 32:, 68:] == 1).all()
    assert math.isinf(edits_apart(row, row).psnr)


def cell(person: int, arm: str, value: float) -> Cell:
    return Cell(person, arm, 8, "redraw .5", "as it is", 20.0, value, 0.1, value > 0.5, 34.0)


def test_rows_go_on_where_they_were_and_pair_people(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert read(log, Cell) == []
    append(log, [cell(0, "PGD", 0.8), cell(0, "+ FDM", 0.7)])
    append(log, [cell(1, "PGD", 0.4), cell(1, "+ FDM", 0.3), cell(2, "+ FDM", 0.9)])
    cells = read(log, Cell)
    assert len(cells) == 5
    told = table(cells, "PGD")
    row = next(line for line in told.splitlines() if "+ FDM" in line)
    # Person 2 has no pair, and counts for the mean alone.
    assert "| 3 |" in row and "-0.100 [-0.100, -0.100]" in row and "2 of 3" in row
    assert "1 of 2" in next(line for line in told.splitlines() if "| PGD |" in line)


def test_every_attacker_edits_and_a_wish_is_not_fulfilled_before() -> None:
    stack = load_stack()
    portrait = eight_bit(render(person(3)).image[None])
    for number in range(4):
        wish = wish_for(portrait, number)
        assert classify_attributes(portrait)[0][wish.attribute] != wish.value
    wish = replace(wish_for(portrait, 0))
    for name, edit in attackers(stack).items():
        made = edit(portrait, wish)
        assert made.shape == portrait.shape and made.min() >= 0 and made.max() <= 1
        apart = float((made - portrait).abs().mean())
        assert 0.002 < apart < 0.2, name
        assert torch.equal(made, edit(portrait, wish)), name


def test_there_is_no_second_editor_without_its_files(tmp_path: Path) -> None:
    (tmp_path / "fluxguard-second-vae.safetensors").touch()
    with pytest.raises(FluxGuardError, match=r"flux.safetensors and .*text.safetensors are not"):
        second_editor(tmp_path)


def test_the_bench_runs_resumes_and_writes_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One person, two arms, one attacker; the second run has nothing left to do."""
    from fluxguard_core.mini import attackers as module

    stack = load_stack()
    one = {"redraw .5": module.redraw(stack, 0.5)}
    monkeypatch.setattr(module, "attackers", lambda *_: one)
    given = ["bench", "shields", "--people", "1", "--steps", "2", "-o", str(tmp_path), "--shared"]
    given += ["--arm", bench_shields.CLEAN, "--arm", "encoder PGD"]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert "person 0, 8 of 255, encoder PGD" in said
    cells = read(tmp_path / "shields.jsonl", Cell)
    assert len(cells) == 2 * 5 and {c.shared for c in cells} >= {"as it is", "JPEG 75"}
    clean = [c for c in cells if c.arm == bench_shields.CLEAN]
    assert all(c.psnr == 99 and c.ssim == pytest.approx(1) for c in clean)
    assert all(c.psnr < 60 for c in cells if c.arm != bench_shields.CLEAN)
    assert main(given) == 0
    assert "person 0" not in capsys.readouterr().out
    assert (tmp_path / "shields.md").read_text().count("| attacker |") == 1


def test_a_page_has_an_arm_a_row_and_pairs_people_over_attackers() -> None:
    def made(person: int, arm: str, attacker: str, value: float) -> Cell:
        return replace(cell(person, arm, value), attacker=attacker)

    cells = [
        made(person, arm, f"{editor}{kind}", value + 0.1 * person)
        for editor in ("", "second editor, ")
        for kind, arms in (
            ("redraw .5", {"PGD": 0.6, "+ FDM": 0.3}),
            ("redraw .7", {"PGD": 0.4, "+ FDM": 0.5}),
        )
        for arm, value in arms.items()
        for person in range(2)
    ]
    own = page_table(cells, "PGD", "", 8).splitlines()
    assert "| redraw .7, SSIM | SSIM against PGD | PSNR against PGD, dB |" in own[0]
    assert own[3].startswith("| + FDM | 2 | 0.350 [0.300, 0.400] | 0.550 ")
    assert "| -0.1000 [-0.1000, -0.1000] | 0.00 [0.00, 0.00] | 1 of 4 |" in own[3]
    assert len(own) == len(page_table(cells, "PGD", "second editor, ", 8).splitlines()) == 4
    assert len(page_table(cells, "PGD", "", 12).splitlines()) == 2


def test_the_measured_tables_are_the_logs() -> None:
    docs = Path(__file__).parents[2] / "docs"
    cells = read(docs / "measured" / "shields.jsonl", Cell)
    text = (docs / "shields.md").read_text(encoding="utf-8")
    tables = {
        (editor, c.budget)
        for c in cells
        for editor in ("", bench_shields.SECOND)
        if c.attacker.startswith(editor)
    }
    for editor, budget in tables:
        expected = page_table(cells, bench_shields.BASELINE, editor, budget)
        assert expected in text, f"docs/shields.md does not say:\n{expected}"


def test_rows_of_other_settings_are_not_counted_together(tmp_path: Path) -> None:
    check_settings(tmp_path, {"steps": 12})
    check_settings(tmp_path, {"steps": 12})
    with pytest.raises(FluxGuardError, match="other settings"):
        check_settings(tmp_path, {"steps": 60})
