"""One training loop for all face networks: seeded by step, resumable, on a clock if asked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fluxguard_core.defences.checkpoint import descend, load_game, save_game

Draw = Callable[[int, torch.Generator], Tensor]
"""(step, generator) -> scalar loss of a fresh batch."""


@dataclass(frozen=True)
class FitPlan:
    """steps of `batch` samples at peak rate `rate` (AdamW, short warm-up, cosine to zero).

    `minutes` ends earlier with the same schedule; `seed` and the step number determine a batch.
    """

    steps: int
    batch: int
    rate: float = 2e-3
    decay: float = 0.02
    seed: int = 0
    minutes: float | None = None


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step, the same after a resumption."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def _rate(progress: float) -> float:
    warm = min(1.0, progress / 0.04 + 0.02)
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _optimiser(module: nn.Module, plan: FitPlan) -> torch.optim.AdamW:
    matrices = [p for p in module.parameters() if p.ndim > 1]
    vectors = [p for p in module.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": plan.decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98))


def fit(
    module: nn.Module,
    draw: Draw,
    plan: FitPlan,
    checkpoint: Path,
    log: Callable[[str], None],
    *,
    every: int = 100,
) -> int:
    """Train `module` by the losses of `draw`; returns the samples seen.

    Continues from `checkpoint` where one exists; writes it every minute, at the end and when
    stopped.
    """
    torch.set_flush_denormal(True)
    optimiser = _optimiser(module, plan)
    players = {"module": (module, "optimiser", optimiser)}
    step, spent = 0, 0.0
    if checkpoint.is_file():
        notes, _ = load_game(checkpoint, players)
        step, spent = int(notes["step"]), float(notes["seconds"])

    def save() -> None:
        save_game(checkpoint, players, {"step": step, "seconds": spent}, {})

    limit = math.inf if plan.minutes is None else plan.minutes * 60
    start = saved = time.monotonic() - spent
    module.train()
    mean = None
    try:
        while step < plan.steps and spent < limit:
            progress = max(step / plan.steps, spent / limit)
            loss = draw(step, step_generator(plan.seed, step))
            descend(optimiser, loss, plan.rate * _rate(progress), clip=5.0)
            value = float(loss.detach())
            step += 1
            spent = time.monotonic() - start
            mean = value if mean is None else 0.98 * mean + 0.02 * value
            if step % every == 0:
                speed = step * plan.batch / spent
                log(f"step {step} loss {mean:.4f} {speed:.0f} samples/s {spent:.0f} s")
            if time.monotonic() - saved > 60:
                save()
                saved = time.monotonic()
    finally:
        save()
    module.eval()
    return step * plan.batch
