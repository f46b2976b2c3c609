"""The training loop that every generative part of the miniature shares.

AdamW (and Muon for hidden matrices) with warm-up and cosine, an exponential moving average, bfloat16
autocast, checkpoints that carry everything (weights, average, optimiser moments, step, time spent) and a text log. A budget is a number of
steps, or minutes: then the schedule follows the clock and ends in time on any machine.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fluxguard_core.errors import FluxGuardError

from .anatomy import PACKAGED, Anatomy
from .cache import CachePlan


@dataclass(frozen=True)
class TrainPlan:
    """What the command line says about a run.

    Args:
        steps: length of the schedule in optimiser steps, unless `minutes` is given.
        out: folder for checkpoint, log and result.
        cache: folder of the rendered portraits (see `cache.py`).
        portraits: which of them.
        anatomy: what is trained, where it is an editor's part.
        compile: fuse the transformer's blocks with torch.compile; needs a C++ compiler.
    """

    steps: int
    out: Path
    cache: Path
    seed: int = 0
    device: str = "cpu"
    minutes: float | None = None
    resume: bool = False
    batch: int = 32
    compile: bool = False
    portraits: CachePlan = field(default_factory=CachePlan)
    anatomy: Anatomy = PACKAGED


@dataclass(frozen=True)
class Recipe:
    """Settings of the optimisers and of the bookkeeping; `muon` is part of the names of its matrices."""

    rate: float
    muon: str | None = None
    betas: tuple[float, float] = (0.9, 0.98)
    decay: float = 0.01
    average: float = 0.999
    warmup: float = 0.02
    clip: float = 1.0
    log_every: int = 50
    save_seconds: float = 150.0


# What an optimiser keeps for each parameter, by its class's name.
_MOMENTS = {"AdamW": ("exp_avg", "exp_avg_sq"), "Muon": ("momentum_buffer",)}


@dataclass(eq=False)
class TrainState:
    """A run under way; `average` is the exponential moving average that is shipped."""

    module: nn.Module
    average: nn.Module
    optimisers: tuple[torch.optim.Optimizer, ...]
    step: int = 0
    elapsed: float = 0.0

    def save(self, path: Path) -> None:
        """Write a checkpoint (safetensors), replacing the last one only when it is complete."""
        tensors = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for i, p in enumerate(_parameters(self.module)):
            for optimiser in self.optimisers:
                for name in _MOMENTS[type(optimiser).__name__]:
                    if p in optimiser.state:
                        tensors[f"optimiser.{i}.{name}"] = optimiser.state[p][name]
        cpu = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        partial = path.with_suffix(".partial")
        save_file(cpu, partial, {"step": str(self.step), "elapsed": str(self.elapsed)})
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        with safe_open(path, "pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        self.step, self.elapsed = int(metadata["step"]), float(metadata["elapsed"])
        for name, module in (("module", self.module), ("average", self.average)):
            prefix = f"{name}."
            module.load_state_dict(
                {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            )
        index = {p: i for i, p in enumerate(_parameters(self.module))}
        for optimiser in self.optimisers:
            names = _MOMENTS[type(optimiser).__name__]
            for p in (p for group in optimiser.param_groups for p in group["params"]):
                if f"optimiser.{index[p]}.{names[0]}" not in tensors:
                    continue
                moments = {n: tensors[f"optimiser.{index[p]}.{n}"].to(p) for n in names}
                # A fused AdamW counts on the parameter's device.
                count = torch.tensor(float(self.step), device=p.device)
                counter = {"step": count} if len(names) > 1 else {}
                optimiser.state[p] = {**counter, **moments}


def _optimisers(module: nn.Module, recipe: Recipe) -> tuple[torch.optim.Optimizer, ...]:
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    part = recipe.muon
    matrices = [p for n, p in named if part is not None and part in n and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for _, p in named if id(p) not in chosen]
    adamw = torch.optim.AdamW(
        others, lr=recipe.rate, betas=recipe.betas, weight_decay=recipe.decay, fused=True
    )
    if not matrices:
        return (adamw,)
    if not hasattr(torch.optim, "Muon"):
        raise FluxGuardError(
            f"This training needs PyTorch 2.9 or newer (the Muon optimiser), found {torch.__version__}."
        )
    muon = torch.optim.Muon(
        matrices, lr=recipe.rate, weight_decay=recipe.decay, adjust_lr_fn="match_rms_adamw"
    )
    return adamw, muon


Loss = Callable[[TrainState, float], tuple[Tensor, dict[str, float]]]


def _parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    return (p for p in module.parameters() if p.requires_grad)


def pick_device(wanted: str | None) -> str:
    """The wanted device, or a GPU where there is one."""
    return wanted or ("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def _update_average(state: TrainState, decay: float) -> None:
    keep = min(decay, (1.0 + state.step) / (10.0 + state.step))
    live = list(state.module.state_dict().values())
    kept = list(state.average.state_dict().values())
    torch._foreach_lerp_(kept, live, 1.0 - keep)


def _rate(progress: float, recipe: Recipe) -> float:
    rise = min(1.0, (progress + 1e-4) / recipe.warmup)
    return recipe.rate * rise * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0))))


def train(
    name: str,
    module: nn.Module,
    loss: Loss,
    plan: TrainPlan,
    recipe: Recipe,
    report: Callable[[TrainState], str] | None = None,
    prepare: Callable[[TrainState], None] | None = None,
) -> nn.Module:
    """Train to the end of the budget; returns the moving average in evaluation mode.

    Writes a checkpoint every few minutes, at the end and when stopped; a run resumed on the same machine
    ends in the weights of one that was never stopped, unless it follows the clock. Raises FluxGuardError
    where a checkpoint lies and the plan does not resume it.

    Args:
        loss: (state, progress in [0, 1]) -> scalar loss and figures for the log.
        report: called at every checkpoint; its line goes into the log.
        prepare: called once before the first step, e.g. to compile module and average.
    """
    checkpoint, log = start(name, plan)
    module.to(plan.device).train()
    average = copy.deepcopy(module).requires_grad_(False).eval()
    state = TrainState(module, average, _optimisers(module, recipe))
    if plan.resume and checkpoint.exists():
        state.load(checkpoint)
    if prepare is not None:
        prepare(state)
    started = time.monotonic() - state.elapsed
    try:
        _descend(name, state, loss, plan, recipe, report, started)
    finally:
        state.save(checkpoint)
    note(log, f"done after {state.step} steps, {state.elapsed / 60:.1f} minutes")
    return average


def _descend(
    name: str,
    state: TrainState,
    loss: Loss,
    plan: TrainPlan,
    recipe: Recipe,
    report: Callable[[TrainState], str] | None,
    started: float,
) -> None:
    checkpoint, log = _paths(name, plan)
    device, saved = torch.device(plan.device).type, time.monotonic()
    while (progress := _progress(state, plan)) < 1.0:
        # A step has its own random numbers, so that a resumed run is the run it continues.
        torch.manual_seed(1_000_003 * plan.seed + state.step)
        with torch.autocast(device, torch.bfloat16):
            value, figures = loss(state, progress)
        _update(state, value, _rate(progress, recipe), recipe)
        state.elapsed = time.monotonic() - started
        if state.step % recipe.log_every == 0:
            _log(log, state, progress, {"loss": float(value.detach()), **figures})
        if time.monotonic() - saved > recipe.save_seconds:
            state.save(checkpoint)
            note(log, report(state) if report else "checkpoint")
            saved = time.monotonic()


def _update(state: TrainState, value: Tensor, rate: float, recipe: Recipe) -> None:
    """One optimiser step down the loss, and one of the average."""
    for optimiser in state.optimisers:
        optimiser.zero_grad(set_to_none=True)
        for group in optimiser.param_groups:
            group["lr"] = rate
    value.backward()
    torch.nn.utils.clip_grad_norm_(list(_parameters(state.module)), recipe.clip)
    for optimiser in state.optimisers:
        optimiser.step()
    state.step += 1
    _update_average(state, recipe.average)


def _paths(name: str, plan: TrainPlan) -> tuple[Path, Path]:
    """Checkpoint and log of a part."""
    return plan.out / f"{name}.checkpoint.safetensors", plan.out / f"{name}.log"


def start(name: str, plan: TrainPlan) -> tuple[Path, Path]:
    """Checkpoint and log of a part, in a folder that is there.

    Raises FluxGuardError where an earlier run's checkpoint would be overwritten.
    """
    checkpoint, log = _paths(name, plan)
    if checkpoint.exists() and not plan.resume:
        raise FluxGuardError(
            f"{checkpoint} holds an earlier run. Continue it with --resume, or move it away (or give another "
            "--out) to start anew."
        )
    plan.out.mkdir(parents=True, exist_ok=True)
    return checkpoint, log


def _progress(state: TrainState, plan: TrainPlan) -> float:
    if plan.minutes is not None:
        return state.elapsed / (60.0 * plan.minutes)
    return state.step / plan.steps


def _log(log: Path, state: TrainState, progress: float, figures: dict[str, float]) -> None:
    parts = [f"{k} {v:.4f}" for k, v in figures.items()]
    head = f"step {state.step} {100 * progress:.1f}% {state.step / max(state.elapsed, 1e-9):.2f}/s"
    note(log, "  ".join([head, *parts]))


def note(log: Path, line: str) -> None:
    """A line for the log and for who looks on."""
    with log.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line, flush=True)
