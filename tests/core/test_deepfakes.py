"""Deepfake models of drawn faces: they learn, are read again as targets, a cloak is trained and measured against them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fluxguard_core.defences.cloak import load_cloak
from fluxguard_core.defences.cloak_targets import Deepfake
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.attribute_labels import ATTRIBUTES
from training.mini.commands import main
from training.mini.deepfakes import PatchCritic, SelectiveGenerator, StarGenerator, SwapPair
from training.mini.deepfakes_game import Game, GamePlan, Round, Rules, play, train_game
from training.mini.deepfakes_quality import ascent
from training.mini.deepfakes_quality import main as measure
from training.mini.deepfakes_train import ASKED, Models, load_models, swapped_pictures, turned
from training.mini.deepfakes_transfer import main as measure_transfer
from training.mini.training import TrainPlan


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


def test_one_hair_colour_at_a_time_is_asked_for() -> None:
    black, blond = ATTRIBUTES.index("Black_Hair"), ATTRIBUTES.index("Blond_Hair")
    labels = torch.zeros(2, len(ATTRIBUTES))
    labels[:, black] = labels[:, -1] = 1
    wanted = turned(labels, torch.tensor([ASKED.index("Blond_Hair"), ASKED.index("Black_Hair")]))
    assert wanted[0, blond] == 1 and wanted[0, black] == 0, "another colour takes this one's place"
    assert wanted[1].sum() == wanted[1, -1] == 1, "taken off, no other is put on"


def test_the_game_teaches_then_plays_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """A square that is to be light or dark: the answers teach it, the game keeps it, a stopped run loses nothing."""
    plan = TrainPlan(60, tmp_path, tmp_path, batch=6)
    whole = toy_game()
    first = play(whole, RULES, SETTINGS, 0.0, 0)["answer"]
    for step in range(1, 40):
        last = play(whole, RULES, SETTINGS, 0.01 * step, 0)
    assert last["answer"] < 0.5 * first
    critic = {k: v.clone() for k, v in whole.critic.state_dict().items()}
    assert {"score", "classes", "same"} == set(play(whole, RULES, SETTINGS, 0.9, 0))
    assert any(not torch.equal(v, critic[k]) for k, v in whole.critic.state_dict().items())
    plan = replace(plan, steps=6)
    train_game("whole", toy_game(), RULES, plan, SETTINGS)
    part = toy_game()
    for step in range(3):
        play(part, RULES, SETTINGS, step / 6, plan.seed)
    part.save(tmp_path / "part.checkpoint.safetensors")
    train_game("part", toy_game(), RULES, replace(plan, resume=True), SETTINGS)
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "part"))
    for key in one:
        torch.testing.assert_close(one[key], two[key])


def toy_game() -> Game:
    torch.manual_seed(3)
    return Game.fresh(nn.Conv2d(4, 3, 3, padding=1), PatchCritic(1, 16, 8, 2))


def draw_squares(random: torch.Generator) -> Round:
    wanted = (torch.rand(6, 1, generator=random) < 0.5).float()
    plain = torch.rand(6, 3, 16, 16, generator=random) * 0.2
    answers = plain + (wanted - 0.5)[:, :, None, None]
    return Round(plain, 1 - wanted, wanted, answers, real=answers, shown=wanted)


def _lit(network: nn.Module, turn: Round) -> Tensor:
    planes = turn.wanted[:, :, None, None].expand(-1, -1, 16, 16)
    out: Tensor = network(torch.cat((turn.pictures, planes), 1))
    return out


RULES = Rules(_lit, lambda n, t, edited: (edited - t.answers).abs().mean(), 10.0, 1.0, draw_squares)
SETTINGS = GamePlan(taught=0.5, ahead=0.2, warm=2e-2)


def test_what_a_cloak_does_to_the_reading_of_labels_is_not_counted() -> None:
    """The model is told what the plain pictures show; one that reads every picture itself would err."""
    told: list[Tensor] = []

    def told_model(labels: Tensor) -> Deepfake:
        told.append(labels)
        return Deepfake("toy", 1, lambda x, c: x * labels.mean())

    read = Deepfake("toy", 1, lambda x, c: x)
    models = Models(
        (read,), (), {"toy": told_model}, lambda x: (x.mean((1, 2, 3)) > 0.5)[:, None].float()
    )
    plain = torch.full((1, 3, 8, 8), 0.6)
    model = models.asked_of(read, plain)
    torch.testing.assert_close(model(plain / 2, torch.zeros(1)), plain / 2 * told[0].mean())
    assert bool((told[0] == 1).all())


def test_a_few_steps_of_everything_end_in_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FluxGuardError, match="train stargan"):
        load_models(tmp_path)
    few = ["--batch", "2", "--people", "40", "--cache", str(tmp_path), "--out", str(tmp_path)]
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
    ways = tmp_path / "ways.jsonl"
    assert measure_transfer([*models, "--people", "1", "--log", str(ways)]) == 0
    told = capsys.readouterr().out
    assert "| ascent through | on attgan | on stargan | on swap | on stgan | PSNR |" in told
    assert ways.read_text(encoding="utf-8").count("\n") == 16 and told.count(" of 1 |") == 16
    (tmp_path / "swap.safetensors").unlink()
    assert [model.name for model in load_models(tmp_path).seen] == ["attgan", "stargan"]
