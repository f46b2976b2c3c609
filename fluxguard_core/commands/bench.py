"""`fluxguard bench`: costs counted, and both loops timed side by side on one network."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..flow import Counted, State, Trajectory, advance, flux_schedule, invert
from ..flow.field import Layout, ValueTap
from ..protect.refiner import Branches, Refiner
from ..protect.run import edit_and_protect

STEPS, ATTACKED = 25, 5


def register(subparsers: Any) -> None:
    """Add the `bench` command to the `fluxguard` parser."""
    bench = subparsers.add_parser("bench", help="count and measure costs, side by side")
    kinds = bench.add_subparsers(dest="bench_command", required=True)
    cost = kinds.add_parser("cost", help="network evaluations of the released loop and of ours")
    cost.add_argument("--json", action="store_true")
    cost.set_defaults(run=run_cost)
    loops = kinds.add_parser("loops", help="time and peak memory: without sharing against with")
    loops.add_argument("--width", type=int, default=256, help="of the network, a multiple of 128")
    loops.add_argument("--size", type=int, default=256, help="of the picture in pixels")
    loops.add_argument("--repeats", type=int, default=3)
    loops.add_argument("--json", action="store_true")
    loops.set_defaults(run=run_loops)


@dataclass(frozen=True)
class _Still:
    """A field that costs nothing, for counting."""

    layout: ClassVar[Layout] = Layout("still", 0, 0, 0)

    def __call__(self, latent: Tensor, sigma: float, tap: ValueTap | None = None) -> Tensor:
        return torch.zeros_like(latent)


def unshared(
    field: Counted, trajectory: Trajectory, refine: Callable[[Branches], Tensor]
) -> tuple[Tensor, Tensor]:
    """The released loop: a clean and an adversarial branch, both from noise to picture."""
    clean = adversarial = State(trajectory.terminal)
    first = trajectory.intervals - ATTACKED
    while clean.interval < trajectory.intervals:
        clean = advance(field, trajectory, clean)
        adversarial = advance(field, trajectory, adversarial)
        if (
            clean.interval > first
            and clean.velocity is not None
            and adversarial.velocity is not None
        ):
            sigma = float(trajectory.sigmas[clean.interval])
            branches = Branches(
                clean.latent,
                adversarial.latent,
                clean.velocity,
                adversarial.velocity,
                sigma,
                clean.interval - 1,
            )
            adversarial = State(refine(branches), adversarial.interval, adversarial.velocity)
    return clean.latent, adversarial.latent


class _Unchanged(Refiner):
    """A refiner that only measures the loop around it."""

    def __init__(self) -> None:
        self.region, self.log, self.interrupted_result = None, [], None

    def __call__(self, branches: Branches) -> Tensor:
        return branches.adversarial


def count_evaluations() -> dict[str, int]:
    """Evaluations a picture of the released loop, of the paper's solver shared, and of FireFlow shared."""
    latent, sigmas = torch.zeros(1, 16, 2, 2), flux_schedule(STEPS, 1024)
    counts = {}
    for name, solver in (("released", "midpoint"), ("paper", "midpoint"), ("fireflow", "fireflow")):
        field = Counted(_Still())
        trajectory = invert(field, latent, sigmas, solver=solver, value_intervals=0, blocks=())  # type: ignore[arg-type]
        if name == "released":
            unshared(field, trajectory, lambda branches: branches.adversarial)
        else:
            edit_and_protect(field, trajectory, [], _Unchanged(), attacked_intervals=ATTACKED)
        counts[name] = field.evaluations
    return counts


def run_cost(args: argparse.Namespace) -> int:
    """Handle `bench cost`."""
    counts = count_evaluations()
    if args.json:
        print(json.dumps({"evaluations": counts, "steps": STEPS, "attacked_intervals": ATTACKED}))
        return 0
    print(f"network evaluations a picture, {STEPS} intervals, {ATTACKED} of them attacked")
    for name, count in counts.items():
        print(f"  {name:<9} {count:>4}   {count / counts['released']:.2f} of the released loop")
    return 0


LOOPS = ("released", "paper", "fireflow")


def run_loops(args: argparse.Namespace) -> int:
    """Handle `bench loops`: each loop in a process of its own, in turn, so that peaks do not mix."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in LOOPS}
    spawn = multiprocessing.get_context("spawn")
    for _ in range(args.repeats):
        for name in LOOPS:
            with spawn.Pool(1) as process:
                runs[name].append(process.apply(timed, (name, args.width, args.size)))
    table = {
        name: {
            "seconds": statistics.median(run["seconds"] for run in measured),
            "peak_bytes": statistics.median(run["peak_bytes"] for run in measured),
            "seconds_ratio": statistics.median(
                run["seconds"] / base["seconds"]
                for run, base in zip(measured, runs["released"], strict=True)
            ),
            "peak_ratio": statistics.median(
                run["peak_bytes"] / base["peak_bytes"]
                for run, base in zip(measured, runs["released"], strict=True)
            ),
        }
        for name, measured in runs.items()
    }
    if args.json:
        print(json.dumps({"width": args.width, "size": args.size, "loops": table}))
        return 0
    print(
        f"width {args.width}, {args.size} px, medians of {args.repeats} runs; peak above the loaded network"
    )
    for name, row in table.items():
        print(
            f"  {name:<9} {row['seconds']:8.2f} s  {row['peak_bytes'] / 2**20:8.1f} MiB   "
            f"time {row['seconds_ratio']:.2f}  peak {row['peak_ratio']:.2f} of released"
        )
    return 0


def timed(loop: str, width: int, size: int) -> dict[str, float]:
    """Seconds, and the peak memory above what the loaded network takes."""
    from ..diffusers_backend import FluxField, Prompt, diffusers, layout_of

    generator = torch.Generator().manual_seed(0)
    model = diffusers().FluxTransformer2DModel(
        num_layers=2,
        num_single_layers=6,
        attention_head_dim=128,
        num_attention_heads=width // 128,
        joint_attention_dim=128,
        pooled_projection_dim=64,
        guidance_embeds=True,
    )
    model.eval().requires_grad_(False)
    prompt = Prompt(
        torch.randn(1, 32, 128, generator=generator), torch.randn(1, 64, generator=generator)
    )
    field = Counted(FluxField(model, prompt, 1.0, layout_of(model)))
    latent = torch.randn(1, 16, size // 8, size // 8, generator=generator)
    field(latent, 1.0)
    before = _peak()
    started = time.perf_counter()
    trajectory = invert(
        field,
        latent,
        flux_schedule(STEPS, (size // 16) ** 2),
        solver="fireflow" if loop == "fireflow" else "midpoint",
    )
    if loop == "released":
        unshared(field, trajectory, lambda branches: branches.adversarial)
    else:
        edit_and_protect(field, trajectory, [], _Unchanged(), attacked_intervals=ATTACKED)
    return {"seconds": time.perf_counter() - started, "peak_bytes": max(1, _peak() - before)}


def _peak() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
