"""Deepfake models of drawn faces: they learn, are read again as targets, a cloak is trained and measured against them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fluxguard_core.defences.cloak import load_cloak
from fluxguard_core.defences.cloak_targets import Deepfake
from fluxguard_core.errors import FluxGuardError
from training.mini.commands import main
from training.mini.deepfakes import SelectiveGenerator, StarGenerator, SwapPair
from training.mini.deepfakes_quality import ascent
from training.mini.deepfakes_quality import main as measure
from training.mini.deepfakes_train import load_models, swapped_pictures


@pytest.mark.parametrize(
    ("network", "asked"),
    [
        (StarGenerator(5, 8, 1), torch.zeros(2, 5)),
        (SelectiveGenerator(5, 8), torch.zeros(2, 5)),
        (SwapPair(2, 8), torch.tensor([0, 1])),
    ],
    ids=["star", "selective", "swap"],
)
def test_a_picture_comes_out_that_depends_on_what_is_asked(
    network: nn.Module, asked: Tensor
) -> None:
    pictures = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_(True)
    made = network(pictures, asked)
    assert made.shape == pictures.shape and float(made.detach().abs().max()) <= 1
    assert not torch.equal(made, network(pictures, 1 - asked))
    made.square().mean().backward()
    assert pictures.grad is not None and float(pictures.grad.abs().sum()) > 0


def test_a_swap_keeps_the_shot_and_changes_the_person(tmp_path: Path) -> None:
    plain, answers = swapped_pictures(tmp_path, 3)
    assert plain.shape == (3, 3, 64, 64) and answers.shape == (2, 3, 3, 64, 64)
    corner = answers[..., :3, :3].astype(int) - plain[None, ..., :3, :3]
    assert abs(corner).max() < 30, "the background is the shot's"
    assert (answers[0] != answers[1]).any()
    again = swapped_pictures(tmp_path, 3)[1]
    assert (again == answers).all()


def test_ascent_stays_within_the_limit_and_moves_the_output() -> None:
    torch.manual_seed(0)
    wide = nn.Conv2d(3, 3, 3, padding=1)
    model = Deepfake("toy", 1, lambda x, c: (4 * wide(x)).sigmoid())
    pictures = (torch.rand(2, 3, 64, 64) * 255).round() / 255
    conditions = torch.zeros(2, dtype=torch.long)
    moved = ascent(model, pictures, conditions, 6 / 255)
    assert float((moved - pictures).abs().max()) <= 6.01 / 255
    noise = (pictures + 6 / 255 * (torch.rand(pictures.shape) - 0.5).sign()).clamp(0, 1)
    plain = model(pictures, conditions).detach()
    reached = (model(moved, conditions) - plain).square().mean().detach()
    assert float(reached) > 2 * float((model(noise, conditions) - plain).square().mean().detach())


def test_a_few_steps_of_everything_end_in_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FluxGuardError, match="train stargan"):
        load_models(tmp_path)
    few = ["--batch", "2", "--people", "4", "--cache", str(tmp_path), "--out", str(tmp_path)]
    for part in ("stargan", "stgan", "swap", "cloak", "identity-cloak"):
        assert main(["train", part, "--steps", "1", "--device", "cpu", *few]) == 0
    cloak = load_cloak(tmp_path / "cloak.safetensors")
    assert cloak.world == "drawn" and cloak.against == ("attgan", "stargan", "swap")
    other = load_cloak(tmp_path / "identity-cloak.safetensors")
    assert other.against == ("mini-ir", "mini-irse", "mini-facenet")
    assert other.eyes == pytest.approx(2 * cloak.eyes)
    log = tmp_path / "log.jsonl"
    file, models = str(tmp_path / "cloak.safetensors"), ["--models", str(tmp_path)]
    assert measure([file, *models, "--people", "2", "--log", str(log)]) == 0
    told = capsys.readouterr().out
    assert "| stargan | yes | 2 |" in told and "| stgan | **no** | 2 |" in told
    assert log.read_text(encoding="utf-8").count("\n") == 4 * 2 + 4
