"""The game by which the deepfake models learn: the renderer's answers first, then a critic, as the published models.

StarGAN's cycle has to bring back what an edit has taken away, so a long game may hide that in faint patterns and read
them with a high gain. Short games did not make models easier to break (docs/attributes.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from fluxguard_core.defences.attgan_losses import answer_loss, gradient_penalty
from fluxguard_core.defences.checkpoint import Players, descend, load_game, save_game

from .training import TrainPlan, note, start


@dataclass(frozen=True, eq=False)
class Round:
    """What one turn of the game is about; pictures [B, 3, S, S] in [-1, 1], labels [B, n].

    Args:
        pictures: what the model is given; labels: what they show.
        wanted: what it is asked for; answers: what the renderer says to that.
        real, shown: pictures that the critic takes for real, and what they show.
    """

    pictures: Tensor
    labels: Tensor
    wanted: Tensor
    answers: Tensor
    real: Tensor
    shown: Tensor


@dataclass(frozen=True, eq=False)
class Rules:
    """A model's part in the game.

    Args:
        make: (network, round) -> edited pictures.
        again: (network, round, edited) -> distance of what ought to be the same.
        same, classify: weights of that distance and of the critic's classes, beside the critic's score.
        answers: weight of the renderer's answers in the game. Without them StarGAN's, a short game long, learns that
            its cycle is best kept by changing nothing.
        draw: random numbers -> a round.
    """

    make: Callable[[nn.Module, Round], Tensor]
    again: Callable[[nn.Module, Round, Tensor], Tensor]
    same: float
    classify: float
    draw: Callable[[torch.Generator], Round]
    answers: float = 0.0


@dataclass(frozen=True)
class GamePlan:
    """A run of so many generator's turns.

    Args:
        taught: share of the run, at its start, in which the model learns from answers.
        ahead: share of the run by which the critic begins before the game.
        critic_turns: of the critic for each of the model's in the game (published: 5, at equal rates).
        critic_rate: of the critic's Adam.
        rate: of Adam in the game; warm: while answers teach.
    """

    taught: float = 0.7
    ahead: float = 0.1
    critic_turns: int = 1
    rate: float = 4e-4
    warm: float = 2e-3
    critic_rate: float = 8e-4
    penalty: float = 10.0
    log_every: int = 50
    save_seconds: float = 60.0


Critic = nn.Module
"""Pictures [B, 3, S, S] in [-1, 1] -> scores [B] and logits of labels [B, n]."""


def _critic_loss(
    critic: Critic, turn: Round, fake: Tensor, plan: GamePlan, random: torch.Generator
) -> Tensor:
    score, logits = critic(turn.real)
    apart = critic(fake)[0].mean() - score.mean()
    penalty = gradient_penalty(lambda x: critic(x)[0], turn.real, fake, random)
    return apart + plan.penalty * penalty + F.binary_cross_entropy_with_logits(logits, turn.shown)


def _model_loss(
    network: nn.Module, critic: Critic, turn: Round, rules: Rules, half: torch.autocast
) -> tuple[Tensor, dict[str, float]]:
    with half:
        edited = rules.make(network, turn)
        same = rules.again(network, turn, edited)
    score, logits = critic(edited.float())
    classes = F.binary_cross_entropy_with_logits(logits, turn.wanted)
    loss = -score.mean() + rules.classify * classes + rules.same * same
    if rules.answers:
        loss = loss + rules.answers * answer_loss(edited.float(), turn.pictures, turn.answers)
    return loss, {
        "score": float(score.detach().mean()),
        "classes": float(classes.detach()),
        "same": float(same.detach()),
    }


@dataclass(eq=False)
class Game:
    """Both networks and their optimisers, under way."""

    network: nn.Module
    critic: Critic
    adam: tuple[torch.optim.Adam, torch.optim.Adam]
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def fresh(cls, network: nn.Module, critic: Critic) -> Game:
        """Optimisers with the published momenta."""
        nets = (network, critic)
        first, second = (torch.optim.Adam(n.parameters(), 1e-3, betas=(0.5, 0.999)) for n in nets)
        return cls(network, critic, (first, second))

    def save(self, path: Path) -> None:
        """Write everything, replacing the last checkpoint only when this one is complete."""
        save_game(path, self._players(), {"step": self.step, "seconds": self.seconds}, {})

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        notes, _ = load_game(path, self._players())
        self.step, self.seconds = int(notes["step"]), float(notes["seconds"])

    def _players(self) -> Players:
        first, second = self.adam
        return {"G": (self.network, "adamG", first), "D": (self.critic, "adamD", second)}


def play(game: Game, rules: Rules, plan: GamePlan, progress: float, seed: int) -> dict[str, float]:
    """One turn of the model and the critic's before it; its figures."""
    device = next(game.network.parameters()).device.type
    half = torch.autocast(device, torch.bfloat16)
    random = torch.Generator().manual_seed(1_000_003 * seed + game.step)
    taught = progress < plan.taught
    game.critic.requires_grad_(True)
    turns = plan.critic_turns if progress > plan.taught - plan.ahead else 0
    for _ in range(turns):
        turn = rules.draw(random)
        with torch.no_grad(), half:
            fake = rules.make(game.network, turn).float()
        descend(game.adam[1], _critic_loss(game.critic, turn, fake, plan, random), plan.critic_rate)
    game.critic.requires_grad_(False)
    turn = rules.draw(random)
    if taught:
        with half:
            edited = rules.make(game.network, turn)
        loss = answer_loss(edited.float(), turn.pictures, turn.answers)
        figures = {"answer": float(loss.detach())}
    else:
        loss, figures = _model_loss(game.network, game.critic, turn, rules, half)
    # Both parts settle at their ends.
    left = 1.0 - progress / plan.taught if taught else (1.0 - progress) / (1.0 - plan.taught)
    rate = (plan.warm if taught else plan.rate) * min(1.0, 2.5 * left + 0.05)
    descend(game.adam[0], loss, rate)
    game.step += 1
    return figures


def train_game(
    name: str,
    game: Game,
    rules: Rules,
    plan: TrainPlan,
    settings: GamePlan | None = None,
    look: Callable[[nn.Module, int], str] | None = None,
    look_every: int = 350,
) -> Path:
    """Play to the end of the plan, resumably; returns the model's file.

    Args:
        look: (network, step) -> a line for the log, asked every `look_every` turns.
    """
    settings = settings or GamePlan()
    checkpoint, log = start(name, plan)
    if checkpoint.is_file():
        game.load(checkpoint)
    started = saved = time.monotonic() - game.seconds
    game.network.train()
    try:
        while (progress := _progress(game, plan)) < 1.0:
            figures = play(game, rules, settings, progress, plan.seed)
            game.seconds = time.monotonic() - started
            if game.step % settings.log_every == 0:
                told = "  ".join(f"{k} {v:.4f}" for k, v in figures.items())
                note(log, f"step {game.step}  {game.seconds:.0f} s  {told}")
            if look is not None and game.step % look_every == 0:
                game.network.eval()
                note(log, look(game.network, game.step))
                game.network.train()
            if time.monotonic() - saved > settings.save_seconds:
                game.save(checkpoint)
                saved = time.monotonic()
    finally:
        game.save(checkpoint)
    file = plan.out / f"{name}.safetensors"
    state = {k: v.detach().cpu().contiguous() for k, v in game.network.state_dict().items()}
    save_file(state, file, {"kind": name, "steps": str(game.step)})
    note(log, f"Written {file.name} after {game.step} turns, {game.seconds / 60:.1f} minutes")
    return file


def _progress(game: Game, plan: TrainPlan) -> float:
    if plan.minutes is not None:
        return game.seconds / (60.0 * plan.minutes)
    return game.step / plan.steps
