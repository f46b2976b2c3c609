"""`fluxguard bench true-size` and `bench phases`: costs at real sizes with random weights, as rows for a table."""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import platform
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import torch

from ..pictures.files import write_atomic
from ..pipelines.phases import PHASES, Loop, Phase, Spent, preset_of, run_loop
from ..pipelines.true_size import (
    LAYOUTS,
    Layout,
    Weights,
    measure_evaluation,
    random_job,
    random_models,
    require_cuda,
)
from ..protect.presets import Preset

HEAD = (
    "| card | weights | size | one evaluation | of the matrix peak | inversion | edit | protection | peak memory |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def register(kinds: Any) -> None:
    """Add both commands."""
    true = kinds.add_parser(
        "true-size",
        help="FLUX.1-dev's layout with random weights on this machine's GPU",
        description="Measures one evaluation, inversion, edit and protection, with peak memory above an empty card, and "
        "prints a row of a table. Random weights cost what trained ones cost; the protection never meets its goal, "
        "so it takes its longest time. bf16 needs a card of about 40 GB, fp8 about 24 GB.",
    )
    true.add_argument(
        "--size", type=int, action="append", help="of the picture (default: 512 and 1024)"
    )
    true.add_argument(
        "--weights", choices=get_args(Weights), action="append", help="default: bf16 and fp8"
    )
    true.add_argument("--preset", choices=("default", "fast"), default="default")
    true.add_argument(
        "--layout", choices=list(LAYOUTS), default="dev", help="tiny: a trial, on a CPU too"
    )
    true.add_argument("--steps", type=int, help="of the optimiser (default: the preset's)")
    true.add_argument("--json", type=Path, metavar="FILE")
    true.set_defaults(run=run_true_size)
    phases = kinds.add_parser(
        "phases",
        help="released loop and ours by phase, recognisers and autoencoder of real sizes, random weights",
    )
    phases.add_argument("--size", type=int, action="append", help="may be repeated (default: 512)")
    phases.add_argument("--faces", type=int, action="append", help="may be repeated (default: 1)")
    phases.add_argument(
        "--layout", choices=list(LAYOUTS), default="tiny", help="of the transformer"
    )
    phases.add_argument(
        "--small",
        action="store_true",
        help="a small autoencoder and one small recogniser, for a trial",
    )
    phases.add_argument(
        "--loop",
        choices=get_args(Loop),
        action="append",
        help="default: released, default and fast",
    )
    phases.add_argument("--steps", type=int, help="of the optimiser (default: the preset's)")
    phases.add_argument(
        "--attacked", type=int, help="intervals that the protection follows (default: the preset's)"
    )
    phases.add_argument(
        "--in-turn", action="store_true", help="branches and views one after the other"
    )
    phases.add_argument("--json", type=Path, metavar="FILE")
    phases.set_defaults(run=run_phases)


def run_true_size(args: argparse.Namespace) -> int:
    """Handler of `fluxguard bench true-size`."""
    device = require_cuda() if args.layout == "dev" else _any_device()
    rows = []
    print(HEAD)
    for weights in args.weights or ["bf16", "fp8"]:
        models = random_models(args.layout, weights, device, small=args.layout == "tiny")
        for size in args.size or [512, 1024]:
            one = measure_evaluation(models, size)
            preset = with_steps(preset_of(args.preset), args.steps)
            spent = run_loop(models, random_job(models, size, preset), args.preset)
            held = torch.cuda.memory_allocated() if device.type == "cuda" else 0
            peak = held + max(part.peak_bytes for part in spent.values())
            rows.append(
                {
                    "card": card(device),
                    "weights": weights,
                    "size": size,
                    "preset": args.preset,
                    "evaluation_seconds": one.seconds,
                    "evaluation_operations": one.operations,
                    "matrix_share": one.share,
                    "peak_bytes": peak,
                    "phases": {name: asdict(part) for name, part in spent.items()},
                }
            )
            print(_row(rows[-1]), flush=True)
        del models
    if args.json is not None:
        write_atomic(args.json, json.dumps(rows, indent=1) + "\n")
    return 0


def with_steps(preset: Preset, steps: int | None) -> Preset:
    """The preset with another number of optimiser's steps after each attacked interval."""
    refiner = replace(preset.refiner, steps=steps or preset.refiner.steps)
    return replace(preset, refiner=refiner)


def card(device: torch.device) -> str:
    """What it was measured on."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU ({platform.machine()})"


def _any_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _row(row: dict[str, Any]) -> str:
    phases = " | ".join(f"{row['phases'][name]['seconds']:.1f} s" for name in PHASES)
    return (
        f"| {row['card']} | {row['weights']} | {row['size']} px | {1e3 * row['evaluation_seconds']:.0f} ms "
        f"| {100 * row['matrix_share']:.0f} % | {phases} | {row['peak_bytes'] / 2**30:.1f} GiB |"
    )


def run_phases(args: argparse.Namespace) -> int:
    """Handler of `fluxguard bench phases`: each loop in a process of its own, so that peaks do not mix."""
    spawn = multiprocessing.get_context("spawn")
    rows = []
    for size, faces in itertools.product(args.size or [512], args.faces or [1]):
        released: dict[Phase, Spent] | None = None
        for loop in args.loop or ("released", "default", "fast"):
            given = (
                loop,
                args.layout,
                size,
                faces,
                args.small,
                not args.in_turn,
                args.steps,
                args.attacked,
            )
            with spawn.Pool(1) as process:
                spent = process.apply(timed_loop, given)
            released = spent if loop == "released" else released
            print(f"{loop}, {size} pixels, {faces} face{'s' * (faces > 1)}")
            _tell(spent, None if loop == "released" else released)
            rows.append(
                {
                    "loop": loop,
                    "size": size,
                    "faces": faces,
                    "layout": args.layout,
                    "phases": {name: asdict(part) for name, part in spent.items()},
                }
            )
    if args.json is not None:
        write_atomic(args.json, json.dumps(rows, indent=1) + "\n")
    return 0


def timed_loop(
    loop: Loop,
    layout: Layout,
    size: int,
    faces: int,
    small: bool,
    one_batch: bool,
    steps: int | None,
    attacked: int | None = None,
) -> dict[Phase, Spent]:
    """One loop in this process."""
    device = _any_device()
    if device.type == "cpu":
        torch.set_num_threads(1)
    models = random_models(
        layout,
        "float32" if device.type == "cpu" else "bf16",
        device,
        small=small,
        real_autoencoder=not small,
    )
    preset = with_steps(preset_of(loop), steps)
    preset = replace(preset, attacked=attacked or preset.attacked)
    job = random_job(models, size, preset, faces)
    return run_loop(models, job, loop, one_batch=one_batch)


def _tell(spent: dict[Phase, Spent], released: dict[Phase, Spent] | None) -> None:
    for name, part in spent.items():
        against = ""
        if released is not None:
            base = released[name]
            against = (
                f"   {part.seconds / base.seconds:.2f} of the released loop's time, "
                f"{part.peak_bytes / max(1, base.peak_bytes):.2f} of its peak"
            )
        print(
            f"  {name:<10} {part.evaluations:>4} evaluations {part.seconds:>8.1f} s "
            f"{part.peak_bytes / 2**20:>8.0f} MiB{against}",
            flush=True,
        )
