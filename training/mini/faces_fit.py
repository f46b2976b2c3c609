"""One training loop for all face networks: seeded by step, resumable, on a clock if asked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

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


def _tensors(module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = {f"module.{k}": v.contiguous() for k, v in module.state_dict().items()}
    for index, entry in optimiser.state_dict()["state"].items():
        for key, value in entry.items():
            state[f"optimiser.{index}.{key}"] = torch.as_tensor(value).contiguous()
    return state


def _save(
    path: Path, module: nn.Module, optimiser: torch.optim.Optimizer, step: int, spent: float
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(_tensors(module, optimiser), part, {"step": str(step), "seconds": str(spent)})
    part.replace(path)


def _resume(path: Path, module: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
    """Load a checkpoint if there is one; returns the next step and the seconds spent."""
    if not path.is_file():
        return 0, 0.0
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    module.load_state_dict({k[7:]: v for k, v in state.items() if k.startswith("module.")})
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".", 2)
            entries.setdefault(int(index), {})[name] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": entries, "param_groups": groups})
    return int(metadata["step"]), float(metadata["seconds"])


def _optimiser(module: nn.Module, plan: FitPlan) -> torch.optim.AdamW:
    matrices = [p for p in module.parameters() if p.ndim > 1]
    vectors = [p for p in module.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": plan.decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98))


def _descend(
    module: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor, rate: float
) -> float:
    """One step down the loss at a rate, with clipped gradients; returns the loss."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 5.0)
    optimiser.step()
    return float(loss.detach())


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
    step, spent = _resume(checkpoint, module, optimiser)
    limit = math.inf if plan.minutes is None else plan.minutes * 60
    start = saved = time.monotonic() - spent
    module.train()
    mean = None
    try:
        while step < plan.steps and spent < limit:
            progress = max(step / plan.steps, spent / limit)
            loss = draw(step, step_generator(plan.seed, step))
            value = _descend(module, optimiser, loss, plan.rate * _rate(progress))
            step += 1
            spent = time.monotonic() - start
            mean = value if mean is None else 0.98 * mean + 0.02 * value
            if step % every == 0:
                speed = step * plan.batch / spent
                log(f"step {step} loss {mean:.4f} {speed:.0f} samples/s {spent:.0f} s")
            if time.monotonic() - saved > 60:
                _save(checkpoint, module, optimiser, step, spent)
                saved = time.monotonic()
    finally:
        _save(checkpoint, module, optimiser, step, spent)
    module.eval()
    return step * plan.batch
