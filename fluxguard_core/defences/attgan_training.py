"""AttGAN's training, with checkpoints that a stopped run continues from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..weights.loading import load_tensors
from .attgan import AttGANShape, Discriminators, Generator
from .attgan_alone import classifier_loss, taught_loss
from .attgan_losses import (
    AttGANWeights,
    LabelledBatch,
    critic_loss,
    generator_loss,
    label_planes,
)

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
        state = {f"G.{k}": v for k, v in self.generator.state_dict().items()}
        state |= {f"D.{k}": v for k, v in self.critic.state_dict().items()}
        for name, optimiser in zip(("optim_G", "optim_D"), self.steps, strict=True):
            for index, entry in optimiser.state_dict()["state"].items():
                for key, value in entry.items():
                    state[f"{name}.{index}.{key}"] = torch.as_tensor(value)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".partial")
        notes = {k: str(getattr(self, k)) for k in ("step", "seconds", "before")}
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, part, notes)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint of the same shape."""
        state, notes = load_tensors(path)
        self.step, self.seconds = int(notes["step"]), float(notes["seconds"])
        self.before = int(notes.get("before", "0"))
        for prefix, network in (("G.", self.generator), ("D.", self.critic)):
            network.load_state_dict(_under(state, prefix))
        for name, optimiser in zip(("optim_G.", "optim_D."), self.steps, strict=True):
            entries: dict[int, dict[str, Tensor]] = {}
            for key, value in _under(state, name).items():
                index, _, field = key.partition(".")
                entries.setdefault(int(index), {})[field] = value
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": entries, "param_groups": groups})


def _under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _adam(network: nn.Module, plan: AttGANPlan) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), plan.rate, betas=(0.5, 0.999))


def _progress(run: AttGANRun, plan: AttGANPlan) -> float:
    if plan.minutes is not None:
        return run.seconds / (60.0 * plan.minutes)
    return run.step / plan.steps


def _descend(optimiser: torch.optim.Adam, loss: Tensor, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


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
        _descend(run.steps[0], loss, _falling(plan.rate, progress / plan.taught))
    elif progress >= 1 - plan.alone:
        run.critic.requires_grad_(True)
        loss, figures = classifier_loss(run.critic, batch, random)
        _descend(run.steps[1], loss, _falling(plan.rate, (progress - 1) / plan.alone + 1))
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
    _descend(run.steps[0] if turn else run.steps[1], loss, rate)
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
