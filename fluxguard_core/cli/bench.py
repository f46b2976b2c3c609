"""`fluxguard bench`: costs counted, and both loops timed side by side on one network."""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..backends.geometry import FLUX
from ..evaluate.memory import new_peak, peak_memory
from ..faces.alignment import align, gradient_coverage
from ..faces.crops import ARCFACE_TEMPLATE
from ..flow import Counted, flux_schedule, invert
from ..flow.field import Layout, ValueTap
from ..pipelines.phases import unshared
from ..protect.engine import Descent
from ..protect.refiner import Branches, Refined
from ..protect.run import edit_and_protect
from ..recognition.encoder import FaceEncoder
from ..recognition.ensemble import Ensemble
from . import (
    bench_attention,
    bench_cloners,
    bench_evidence,
    bench_faces,
    bench_photo,
    bench_service,
    bench_shields,
    bench_speed,
    bench_trainers,
    bench_true_size,
)

INTERVALS, ATTACKED = 25, 5


def register(subparsers: Any) -> None:
    """Add the `bench` command to the `fluxguard` parser."""
    bench = subparsers.add_parser("bench", help="count and measure costs, side by side")
    kinds = bench.add_subparsers(dest="bench_command", required=True)
    bench_faces.register(kinds)
    cost = kinds.add_parser("cost", help="network evaluations of the released loop and of ours")
    cost.add_argument("--json", action="store_true")
    cost.set_defaults(run=run_cost)
    loops = kinds.add_parser("loops", help="time and peak memory: without sharing against with")
    loops.add_argument("--width", type=int, default=256, help="of the network, a multiple of 128")
    loops.add_argument("--size", type=int, default=256, help="of the picture in pixels")
    loops.add_argument("--repeats", type=int, default=3)
    loops.add_argument("--json", action="store_true")
    loops.set_defaults(run=run_loops)
    ensemble = kinds.add_parser(
        "ensemble", help="the recognisers at their real sizes, random weights"
    )
    ensemble.add_argument("--batch", type=int, default=1)
    ensemble.add_argument("--repeats", type=int, default=3)
    ensemble.add_argument("--json", action="store_true")
    ensemble.set_defaults(run=run_ensemble)
    coverage = kinds.add_parser(
        "coverage",
        help="share of the face's pixels that gradients reach, without antialiasing and with",
    )
    coverage.add_argument("--json", action="store_true")
    coverage.set_defaults(run=run_coverage)
    bench_photo.register(kinds)
    bench_evidence.register(kinds)
    bench_service.register(kinds)
    bench_shields.register(kinds)
    bench_trainers.register(kinds)
    bench_attention.register(kinds)
    bench_cloners.register(kinds)
    bench_speed.register(kinds)
    bench_true_size.register(kinds)


@dataclass(frozen=True)
class _Still:
    """A field that costs nothing, for counting."""

    layout: ClassVar[Layout] = Layout("still", 0, 0, 0)

    def __call__(self, latent: Tensor, sigma: float, tap: ValueTap | None = None) -> Tensor:
        return torch.zeros_like(latent)


def unchanged(branches: Branches) -> Refined:
    """In the refiner's place where only the loop around it is measured."""
    return Refined(branches.adversarial, Descent(branches.adversarial, ()))


def count_evaluations() -> dict[str, int]:
    """Evaluations a picture of the released loop, of the paper's solver shared, and of FireFlow shared."""
    latent, sigmas = torch.zeros(1, FLUX.channels, 2, 2), flux_schedule(INTERVALS, 1024)
    counts = {}
    for name, solver in (("released", "midpoint"), ("paper", "midpoint"), ("fireflow", "fireflow")):
        field = Counted(_Still())
        trajectory = invert(field, latent, sigmas, solver=solver, value_intervals=0, blocks=())  # type: ignore[arg-type]
        if name == "released":
            unshared(field, trajectory, [], unchanged, ATTACKED)
        else:
            edit_and_protect(field, trajectory, [], unchanged, attacked_intervals=ATTACKED)
        counts[name] = field.evaluations
    return counts


def run_cost(args: argparse.Namespace) -> int:
    """Handle `bench cost`."""
    counts = count_evaluations()
    if args.json:
        print(json.dumps({"evaluations": counts, "intervals": INTERVALS, "attacked": ATTACKED}))
        return 0
    print(f"network evaluations a picture, {INTERVALS} intervals, {ATTACKED} of them attacked")
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


def run_ensemble(args: argparse.Namespace) -> int:
    """Handle `bench ensemble`: each recogniser in a process of its own, so that peaks do not mix."""
    spawn = multiprocessing.get_context("spawn")
    table = {}
    for names in (*([name] for name in REAL_SIZES), [*REAL_SIZES]):
        with spawn.Pool(1) as process:
            label = names[0] if len(names) == 1 else "together"
            table[label] = process.apply(timed_recognisers, (names, args.batch, args.repeats))
    if args.json:
        print(json.dumps({"batch": args.batch, "recognisers": table}))
        return 0
    print(
        f"alignment, forward and backward, batch {args.batch}, medians of {args.repeats}, random weights"
    )
    for name, row in table.items():
        print(
            f"  {name:<12} {row['weights_bytes'] / 1e6:6.1f} MB   {row['forward_seconds'] * 1e3:7.1f} ms forward "
            f"{row['both_seconds'] * 1e3:7.1f} ms with backward   {row['peak_bytes'] / 2**20:6.0f} MiB above loaded"
        )
    return 0


FACE_SIDES = (256, 512, 1024)  # side of the square around the face in the picture, in pixels


def measure_coverage() -> dict[str, dict[str, float]]:
    """Share of the pixels under the crop with gradient: by crop and face side, plain and antialiased.

    The face is turned by 8 degrees, as faces are.
    """
    turn = math.radians(8)
    rotation = torch.tensor([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    table = {}
    for crop in sorted(set(REAL_SIZES.values())):
        for side in FACE_SIDES:
            points = (ARCFACE_TEMPLATE - 56) @ rotation * (side / 112) + 0.7 * side
            shape = (round(1.4 * side), round(1.4 * side))
            table[f"{side} px to {crop}"] = {
                name: gradient_coverage(shape, points, crop, antialias=name == "antialiased")
                for name in ("plain", "antialiased")
            }
    return table


def run_coverage(args: argparse.Namespace) -> int:
    """Handle `bench coverage`."""
    table = measure_coverage()
    if args.json:
        print(json.dumps({"coverage": table}))
        return 0
    print("pixels of the face that the recogniser's gradient reaches")
    for name, row in table.items():
        print(
            f"  {name:<15} plain {100 * row['plain']:6.1f} %   antialiased {100 * row['antialiased']:6.1f} %"
        )
    return 0


# The public checkpoints' architectures and input sides.
REAL_SIZES: dict[str, int] = {
    "ir152": 112,
    "irse50": 112,
    "facenet": 160,
    "mobile_face": 112,
    "iresnet50": 112,
    "iresnet100": 112,
}


def real_size(name: str) -> nn.Module:
    """A recogniser's network at its real size, with random weights."""
    from ..recognition.backbones.inception_resnet import InceptionResnetV1
    from ..recognition.backbones.iresnet_arcface import IResNet
    from ..recognition.backbones.iresnet_evolve import IRBackbone
    from ..recognition.backbones.mobilefacenet import MobileFaceNet

    builders: dict[str, Callable[[], nn.Module]] = {
        "ir152": lambda: IRBackbone((3, 8, 36, 3)),
        "irse50": lambda: IRBackbone((3, 4, 14, 3), se=True),
        "facenet": InceptionResnetV1,
        "mobile_face": MobileFaceNet,
        "iresnet50": lambda: IResNet((3, 4, 14, 3)),
        "iresnet100": lambda: IResNet((3, 13, 30, 3)),
    }
    return builders[name]()


def timed_recognisers(names: Sequence[str], batch: int, repeats: int) -> dict[str, float]:
    """Seconds forward and forward + backward through alignment, and peak memory above the loaded networks."""
    ensemble = Ensemble(
        tuple(FaceEncoder(name, real_size(name), REAL_SIZES[name]) for name in names)
    )
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(batch, 3, 512, 512, generator=generator)
    points = 512 * (ARCFACE_TEMPLATE / 112).expand(batch, 5, 2) * 0.6 + 100
    forward, both = [], []
    before = new_peak()
    for _ in range(repeats):
        started = time.perf_counter()
        with torch.no_grad():
            ensemble.embed_attacked(lambda size: align(picture, points, size))
        forward.append(time.perf_counter() - started)
        started = time.perf_counter()
        leaf = picture.clone().requires_grad_(True)
        embedded = ensemble.embed_attacked(lambda size, leaf=leaf: align(leaf, points, size))  # type: ignore[misc]
        torch.stack([vectors.sum() for vectors in embedded]).sum().backward()
        both.append(time.perf_counter() - started)
    return {
        "weights_bytes": sum(
            p.nbytes for n in ensemble.networks for p in (*n.parameters(), *n.buffers())
        ),
        "forward_seconds": statistics.median(forward),
        "both_seconds": statistics.median(both),
        "peak_bytes": max(0, peak_memory() - before),
    }


def timed(loop: str, width: int, size: int) -> dict[str, float]:
    """Seconds, and the peak memory above what the loaded network takes."""
    from ..backends.flux import FluxField, Prompt, diffusers, layout_of

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
    latent = torch.randn(1, FLUX.channels, *FLUX.grid(size, size), generator=generator)
    field(latent, 1.0)
    before = new_peak()
    started = time.perf_counter()
    trajectory = invert(
        field,
        latent,
        flux_schedule(INTERVALS, FLUX.tokens(size, size)),
        solver="fireflow" if loop == "fireflow" else "midpoint",
    )
    if loop == "released":
        unshared(field, trajectory, [], unchanged, ATTACKED)
    else:
        edit_and_protect(field, trajectory, [], unchanged, attacked_intervals=ATTACKED)
    return {"seconds": time.perf_counter() - started, "peak_bytes": max(1, peak_memory() - before)}
