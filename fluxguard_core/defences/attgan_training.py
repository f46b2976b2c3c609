"""AttGAN's training, with checkpoints that a stopped run continues from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from .attgan import AttGANShape, Discriminators, Generator
from .attgan_alone import classifier_loss, taught_loss
from .attgan_losses import (
    AttGANWeights,
    LabelledBatch,
    critic_loss,
    generator_loss,
    label_planes,
)
from .checkpoint import Players, descend, load_game, save_game

Draw = Callable[[int, torch.Generator], LabelledBatch]
"""(step, random numbers of this step) -> a batch."""


@dataclass(frozen=True)
class AttGANPlan:
    """A run. The published one: batches of 32, rate 2e-4, a tenth of it after half of the steps.

    Args:
        critic_steps: critic's updates for each of the generator's.
        minutes: the schedule follows the clock instead of `steps`.
        half: the generator computes in bfloat16.
        taught: share of the run, at its start, in which the generator alone learns from the answers.
        alone: share of the run, at its end, in which the classifier alone goes on.
    """

    steps: int
    rate: float = 2e-4
    critic_steps: int = 5
    lower_at: float = 0.5
    minutes: float | None = None
    seed: int = 0
    device: str = "cpu"
    half: bool = False
    taught: float = 0.0
    alone: float = 0.0
    weights: AttGANWeights = field(default_factory=AttGANWeights)
    save_seconds: float = 60.0
    log_every: int = 100


@dataclass(eq=False)
class AttGANRun:
    """Both networks and their optimisers, under way.

    Args:
        before: updates that the networks had had when this run began.
    """

    generator: Generator
    critic: Discriminators
    steps: tuple[torch.optim.Adam, torch.optim.Adam]
    step: int = 0
    seconds: float = 0.0
    before: int = 0

    @classmethod
    def fresh(cls, shape: AttGANShape, plan: AttGANPlan) -> AttGANRun:
        """New networks from the plan's seed."""
        torch.manual_seed(plan.seed)
        generator = Generator(shape).to(plan.device)
        critic = Discriminators(shape).to(plan.device)
        return cls(generator, critic, (_adam(generator, plan), _adam(critic, plan)))

    def save(self, path: Path) -> None:
        """Write everything, replacing the last checkpoint only when this one is complete."""
        notes = {k: getattr(self, k) for k in ("step", "seconds", "before")}
        save_game(path, self._players(), notes, {})

    def load(self, path: Path) -> None:
        """Continue from a checkpoint of the same shape."""
        notes, _ = load_game(path, self._players())
        self.step, self.seconds = int(notes["step"]), float(notes["seconds"])
        self.before = int(notes.get("before", "0"))

    def _players(self) -> Players:
        first, second = self.steps
        return {
            "G": (self.generator, "optim_G", first),
            "D": (self.critic, "optim_D", second),
        }


def _adam(network: nn.Module, plan: AttGANPlan) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), plan.rate, betas=(0.5, 0.999))


def _progress(run: AttGANRun, plan: AttGANPlan) -> float:
    if plan.minutes is not None:
        return run.seconds / (60.0 * plan.minutes)
    return run.step / plan.steps


def train_step(run: AttGANRun, draw: Draw, plan: AttGANPlan) -> dict[str, float]:
    """One update of one network.

    In the game it is the critic's turn, or after `critic_steps` of them the generator's; before it, where the plan
    says so, the generator's with the answers, after it the classifier's.
    """
    random = torch.Generator().manual_seed(plan.seed * 1_000_003 + run.step)
    batch = draw(run.step, random)
    progress = _progress(run, plan)
    half = torch.autocast(torch.device(plan.device).type, torch.bfloat16, enabled=plan.half)
    if progress < plan.taught:
        loss, figures = taught_loss(run.generator, batch, half)
        descend(run.steps[0], loss, _falling(plan.rate, progress / plan.taught))
    elif progress >= 1 - plan.alone:
        run.critic.requires_grad_(True)
        loss, figures = classifier_loss(run.critic, batch, random)
        descend(run.steps[1], loss, _falling(plan.rate, (progress - 1) / plan.alone + 1))
    else:
        figures = _game_step(run, batch, plan, half, random)
    run.step += 1
    return figures


def _falling(rate: float, progress: float) -> float:
    """A half cosine down to a twentieth."""
    return rate * (0.525 + 0.475 * math.cos(math.pi * min(1.0, progress)))


def _game_step(
    run: AttGANRun,
    batch: LabelledBatch,
    plan: AttGANPlan,
    half: torch.autocast,
    random: torch.Generator,
) -> dict[str, float]:
    rate = plan.rate * (1.0 if _progress(run, plan) < plan.lower_at else 0.1)
    turn = run.step % (plan.critic_steps + 1) == plan.critic_steps
    run.critic.requires_grad_(not turn)
    if turn:
        loss, figures = generator_loss(run.generator, run.critic, batch, plan.weights, half)
    else:
        with torch.no_grad(), half:
            fake = run.generator(batch.pictures, label_planes(batch.wanted)).float()
        loss, figures = critic_loss(run.critic, batch, fake, plan.weights, random)
    descend(run.steps[0] if turn else run.steps[1], loss, rate)
    return figures


def train_attgan(
    run: AttGANRun,
    draw: Draw,
    plan: AttGANPlan,
    checkpoint: Path,
    log: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
) -> AttGANRun:
    """Train to the end of the plan, from the checkpoint where there is one.

    Args:
        log: gets a line of figures every hundred steps.
        stopped: asked before every step; a stopped run leaves its checkpoint.
    """
    if checkpoint.is_file():
        run.load(checkpoint)
    run.generator.train()
    run.critic.train()
    started = saved = time.monotonic() - run.seconds
    figures: dict[str, float] = {}
    try:
        while _progress(run, plan) < 1.0 and not stopped():
            figures |= train_step(run, draw, plan)
            run.seconds = time.monotonic() - started
            if run.step % plan.log_every == 0:
                told = "  ".join(f"{k} {v:.4f}" for k, v in figures.items())
                log(f"step {run.step}  {run.seconds:.0f} s  {told}")
            if time.monotonic() - saved > plan.save_seconds:
                run.save(checkpoint)
                saved = time.monotonic()
    finally:
        run.save(checkpoint)
    run.generator.eval()
    run.critic.eval()
    return run
