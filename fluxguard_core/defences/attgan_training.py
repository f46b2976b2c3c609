"""AttGAN's losses and its training, with checkpoints that a stopped run continues from."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ..weights.loading import load_tensors
from .attgan import AttGANShape, Discriminators, Generator


@dataclass(frozen=True, eq=False)
class LabelledBatch:
    """Pictures to train on.

    Args:
        pictures: [B, 3, S, S] in [-1, 1].
        labels: [B, n], 0 or 1: what they show.
        wanted: [B, n] in [0, 1]: what the generator is asked for.
        answers: [B, 3, S, S], the same pictures with the wanted attributes, where that is known.
    """

    pictures: Tensor
    labels: Tensor
    wanted: Tensor
    answers: Tensor | None = None


Draw = Callable[[int, torch.Generator], LabelledBatch]
"""(step, random numbers of this step) -> a batch."""


@dataclass(frozen=True)
class AttGANWeights:
    """Weights of the losses (paper, Eq. 12-13); `answer` is no part of the paper."""

    reconstruct: float = 100.0
    classify: float = 10.0
    classify_real: float = 1.0
    penalty: float = 10.0
    answer: float = 0.0


@dataclass(frozen=True)
class AttGANPlan:
    """A run. The published one: batches of 32, rate 2e-4, a tenth of it after half of the steps.

    Args:
        critic_steps: critic's updates for each of the generator's.
        minutes: the schedule follows the clock instead of `steps`.
        half: the generator computes in bfloat16.
    """

    steps: int
    rate: float = 2e-4
    critic_steps: int = 5
    lower_at: float = 0.5
    minutes: float | None = None
    seed: int = 0
    device: str = "cpu"
    half: bool = False
    weights: AttGANWeights = AttGANWeights()
    save_seconds: float = 60.0
    log_every: int = 100


def label_planes(labels: Tensor) -> Tensor:
    """Labels in [0, 1] as the generator wants them, in [-0.5, 0.5]."""
    return labels - 0.5


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean of (‖∇D‖ - 1)² between real and fake pictures (WGAN-GP; Gulrajani et al. 2017, Eq. 3)."""
    share = torch.rand(len(real), 1, 1, 1, generator=generator).to(real.device)
    between = (real + share * (fake - real)).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def critic_loss(
    critic: Discriminators,
    batch: LabelledBatch,
    fake: Tensor,
    weights: AttGANWeights,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """E[D(x_b)] - E[D(x)] + 10·GP + BCE(C(x), a), and its parts."""
    real, logits = critic(batch.pictures)
    distance = critic(fake)[0].mean() - real.mean()
    penalty = gradient_penalty(lambda x: critic(x)[0], batch.pictures, fake, generator)
    classes = F.binary_cross_entropy_with_logits(logits, batch.labels)
    loss = distance + weights.penalty * penalty + weights.classify_real * classes
    return loss, {"critic": float(distance.detach()), "classes": float(classes.detach())}


def answer_loss(edited: Tensor, pictures: Tensor, answers: Tensor) -> Tensor:
    """L1 distance to the answers, and a third of it where they differ from the pictures.

    Earrings are a hundredth of a picture; without the second part nobody would miss them.
    """
    error = (edited - answers).abs().mean(1)
    changed = ((answers - pictures).abs().amax(1) > 0.06).to(error)
    there = (error * changed).sum((1, 2)) / (changed.sum((1, 2)) + 0.005 * changed[0].numel())
    return error.mean() + there.mean() / 3


def generator_loss(
    generator: Generator,
    critic: Discriminators,
    batch: LabelledBatch,
    weights: AttGANWeights,
    precision: AbstractContextManager[object] | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """-E[D(x_b)] + 10·BCE(C(x_b), b) + 100·|G(x, a) - x|, and its parts."""
    with precision or nullcontext():
        features = generator.encode(batch.pictures)
        edited = generator.decode(features, label_planes(batch.wanted))
        again = generator.decode(features, label_planes(batch.labels))
    score, logits = critic(edited.float())
    classes = F.binary_cross_entropy_with_logits(logits, batch.wanted)
    same = F.l1_loss(again.float(), batch.pictures)
    loss = -score.mean() + weights.classify * classes + weights.reconstruct * same
    figures = {"edited": float(classes.detach()), "same": float(same.detach())}
    if batch.answers is not None and weights.answer:
        wrong = answer_loss(edited.float(), batch.pictures, batch.answers)
        loss = loss + weights.answer * wrong
        figures["answer"] = float(wrong.detach())
    return loss, figures


@dataclass(eq=False)
class AttGANRun:
    """Both networks and their optimisers, under way."""

    generator: Generator
    critic: Discriminators
    steps: tuple[torch.optim.Adam, torch.optim.Adam]
    step: int = 0
    seconds: float = 0.0

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
        notes = {"step": str(self.step), "seconds": str(self.seconds)}
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, part, notes)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint of the same shape."""
        state, notes = load_tensors(path)
        self.step, self.seconds = int(notes["step"]), float(notes["seconds"])
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
    """One update of one network: the critic's turn, or after `critic_steps` of them the generator's."""
    random = torch.Generator().manual_seed(plan.seed * 1_000_003 + run.step)
    batch = draw(run.step, random)
    rate = plan.rate * (1.0 if _progress(run, plan) < plan.lower_at else 0.1)
    turn = run.step % (plan.critic_steps + 1) == plan.critic_steps
    run.critic.requires_grad_(not turn)
    half = torch.autocast(torch.device(plan.device).type, torch.bfloat16, enabled=plan.half)
    if turn:
        loss, figures = generator_loss(run.generator, run.critic, batch, plan.weights, half)
    else:
        with torch.no_grad(), half:
            fake = run.generator(batch.pictures, label_planes(batch.wanted)).float()
        loss, figures = critic_loss(run.critic, batch, fake, plan.weights, random)
    _descend(run.steps[0] if turn else run.steps[1], loss, rate)
    run.step += 1
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
