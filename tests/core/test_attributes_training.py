"""The drawn AttGAN's data and training: pairs that the renderer answers, a run that goes on, a file that is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fluxguard_core.defences.attgan_files import load_attgan, save_attgan
from fluxguard_core.defences.attgan_training import AttGANPlan, AttGANRun
from fluxguard_core.defences.cloak import Cloak, CloakGenerator, save_cloak
from fluxguard_core.mini.attribute_labels import ATTRIBUTES, labels_of
from fluxguard_core.mini.attributes import attgan_path
from fluxguard_core.weights.loading import load_tensors
from training.mini.attributes_data import HAIR, build_pairs, pair_of
from training.mini.attributes_ship import ship
from training.mini.attributes_train import (
    OFTEN,
    SHAPE,
    chances,
    take_up,
    train_drawn_attgan,
)
from training.mini.cache import CachePlan
from training.mini.cloak_quality import main as measure_cloak
from training.mini.cloak_warm import main as measure_warm
from training.mini.training import TrainPlan


def test_a_pair_is_one_person_in_one_shot_with_other_attributes() -> None:
    changed = 0
    for person in range(40):
        first, second = pair_of(3, person)
        assert first.identity == second.identity and first.nuisance == second.nuisance
        one, two = (labels_of(vars(s.attributes)) for s in (first, second))
        changed += one != two
        for labels in (one, two):
            named = dict(zip(ATTRIBUTES, labels, strict=True))
            assert sum(named[name] for name in HAIR) <= 1
    assert changed > 30


def test_batches_hold_the_answer_to_what_is_wanted(tmp_path: Path) -> None:
    pairs = build_pairs(tmp_path, 6, 32)
    again = build_pairs(tmp_path, 6, 32)
    assert np.array_equal(pairs.before, again.before) and int(pairs.labels.max()) == 1
    batch = pairs.draw(0, torch.Generator().manual_seed(1), 40)
    assert batch.answers is not None and batch.pictures.shape == (40, 3, 32, 32)
    whole = ((batch.wanted == 0) | (batch.wanted == 1)).all(1)
    assert 0.5 < float(whole.float().mean()) <= 1.0
    same = (batch.wanted == batch.labels).all(1)
    for row in torch.nonzero(same)[:, 0]:
        torch.testing.assert_close(batch.pictures[row], batch.answers[row])
    halves = torch.nonzero(~whole)[:, 0]
    assert len(halves)
    for row in halves:
        share = (batch.wanted[row] - batch.labels[row]).abs().max()
        moved = (batch.answers[row] - batch.pictures[row]).abs().max()
        assert float(moved) <= 2 * float(share) + 1e-5


def test_some_pairs_alone_can_be_drawn(tmp_path: Path) -> None:
    pairs = build_pairs(tmp_path, 6, 32)
    only = torch.zeros(6)
    only[2] = 1
    batch = pairs.draw(0, torch.Generator().manual_seed(1), 6, halves=0.0, chances=only)
    shown = {tuple(x) for x in pairs.labels[2].astype(float).tolist()}
    assert {tuple(x) for x in batch.labels.tolist()} <= shown
    assert {tuple(x) for x in batch.wanted.tolist()} <= shown


def test_a_few_steps_make_a_file_with_a_card(tmp_path: Path) -> None:
    plan = TrainPlan(2, tmp_path, tmp_path, batch=4, portraits=CachePlan(identities=4))
    checkpoint = train_drawn_attgan(plan)
    file = ship(checkpoint, tmp_path / "out", 2)
    assert load_attgan(file).shape.attributes == ATTRIBUTES
    card = file.with_suffix(".md").read_text(encoding="utf-8")
    assert "unseen judge" in card and "| all | 2 |" in card and "neutralised for 1" in card
    assert (file.parent / "attributes.jsonl").read_text(encoding="utf-8").count("\n") == 3


def test_networks_of_a_file_are_taken_up_as_they_are(tmp_path: Path) -> None:
    """The packaged ones, and plainer ones into a shape with finer features beside the decoder."""
    plainer = replace(SHAPE, shortcuts=1, injections=1)
    run = AttGANRun.fresh(plainer, AttGANPlan(1))
    notes = {"world": "drawn", "licence": "Apache-2.0", "steps": "7"}
    plain = save_attgan(tmp_path / "plain.safetensors", run.generator, run.critic, plainer, notes)
    for file in (attgan_path(), plain):
        run = AttGANRun.fresh(SHAPE, AttGANPlan(1))
        assert take_up(run, file) == int(load_tensors(file)[1]["steps"])
        kept = load_attgan(file)
        picture, labels = torch.rand(2, 3, 128, 128) * 2 - 1, torch.rand(2, 12) - 0.5
        run.generator.eval()
        torch.testing.assert_close(run.generator(picture, labels), kept.generator(picture, labels))
        assert kept.classifier is not None
        mine, its = run.critic.eval()(picture)[1], kept.classifier(picture)[1]
        torch.testing.assert_close(mine, its)


def test_small_things_that_change_alone_are_drawn_most_often(tmp_path: Path) -> None:
    pairs = build_pairs(tmp_path, 60, 32)
    for labels, chance in zip(pairs.labels, chances(pairs).tolist(), strict=True):
        changed = {n for n, a, b in zip(ATTRIBUTES, *labels, strict=True) if a != b}
        single = changed <= set(HAIR) or len(changed) == 1
        small = max((OFTEN.get(name, 2.0) for name in changed), default=1.0)
        assert chance == (small if single else 1.0), changed


def test_a_resumed_run_without_a_checkpoint_goes_on_from_the_package(tmp_path: Path) -> None:
    plan = TrainPlan(2, tmp_path, tmp_path, batch=2, portraits=CachePlan(identities=4), resume=True)
    run = AttGANRun.fresh(SHAPE, AttGANPlan(1))
    run.load(train_drawn_attgan(plan))
    assert run.before > 3000 and run.step == 2


def test_a_cloak_is_measured_beside_noise_of_its_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save_cloak(tmp_path / "c.safetensors", Cloak(CloakGenerator(8), world="drawn"))
    assert measure_cloak([str(file), "--people", "1", "--log", str(tmp_path / "log.jsonl")]) == 0
    told = capsys.readouterr().out
    assert (
        "PSNR | HaarPSI |" in told
        and "| cloak | mini-ir | attacked |" in told
        and "| noise | mini-vit | held out |" in told
    )
    rows = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 3 * 5 and '"kind": "cloak, JPEG 75"' in rows[5]


def test_steps_from_a_cloak_stand_beside_as_many_from_the_photo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save_cloak(tmp_path / "c.safetensors", Cloak(CloakGenerator(8), world="drawn"))
    log = tmp_path / "log.jsonl"
    assert measure_warm([str(file), "--people", "1", "--steps", "1", "--log", str(log)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-2].startswith("| 0 | 1.00 |") and told[-1].startswith("| 1 |")
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [(r["from"], r["steps"]) for r in rows] == [
        ("photo", 0),
        ("photo", 1),
        ("cloak", 0),
        ("cloak", 1),
    ]
    assert rows[1]["attacked"] < 1 and rows[1]["haarpsi"] < 1
