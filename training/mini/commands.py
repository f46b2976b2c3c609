"""`python -m training.mini train PART`: make the miniature's files again, one resumable command a part."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fluxguard_core.cli.command_line import TERMINAL
from fluxguard_core.errors import FluxGuardError

from . import quality_command, regions_quality, worlds_quality
from .anatomy import PACKAGED, SECOND
from .cache import CachePlan, build_cache, default_cache
from .faces_train import PARTS as FACE_PARTS
from .training import TrainPlan, pick_device

PartTrainer = Callable[[TrainPlan], None]


def _renderer_cache(plan: TrainPlan) -> None:
    folder = build_cache(plan.cache, plan.portraits, workers=max(1, torch.get_num_threads()))
    print(f"Portraits in {folder}")


def _vae(plan: TrainPlan) -> None:
    from .train_vae import train_vae

    train_vae(plan)


def _vae_decoder(plan: TrainPlan) -> None:
    from .train_vae import refine_decoder

    refine_decoder(plan)


def _flux(plan: TrainPlan) -> None:
    from .train_flux import train_flux

    train_flux(plan)


def _lora(plan: TrainPlan) -> None:
    from .train_lora import train_lora

    train_lora(plan)


def _attgan(plan: TrainPlan) -> None:
    from .attributes_train import train_drawn_attgan

    train_drawn_attgan(plan)


def _deepfake(name: str) -> PartTrainer:
    def trained(plan: TrainPlan) -> None:
        from .deepfakes_train import train_by_labels, train_swap

        if name == "swap":
            train_swap(plan)
        else:
            train_by_labels(plan, name)

    return trained


def _judge(plan: TrainPlan) -> None:
    from .judge_train import train_judge

    train_judge(plan)


def _cloak(plan: TrainPlan) -> None:
    from .cloak_train import train_drawn_cloak

    train_drawn_cloak(plan)


def _clone_adapter(plan: TrainPlan) -> None:
    from .clone_train import train_clone_adapters

    train_clone_adapters(plan)


def _identity_cloak(plan: TrainPlan) -> None:
    from .cloak_train import train_identity_cloak

    train_identity_cloak(plan)


# Part -> (trainer, default steps, default batch).
PARTS: dict[str, tuple[PartTrainer, int, int]] = {
    "renderer-cache": (_renderer_cache, 1, 1),
    "vae": (_vae, 8000, 16),
    "vae-decoder": (_vae_decoder, 4000, 16),
    "flux": (_flux, 20000, 32),
    "lora": (_lora, 600, 32),
    "attgan": (_attgan, 12000, 32),
    "judge": (_judge, 2000, 32),
    "stargan": (_deepfake("stargan"), 800, 8),
    "stgan": (_deepfake("stgan"), 800, 8),
    "swap": (_deepfake("swap"), 800, 8),
    "cloak": (_cloak, 1000, 8),
    "identity-cloak": (_identity_cloak, 1000, 4),
    "clone-adapter": (_clone_adapter, 1200, 64),
    **FACE_PARTS,
}


def build_parser() -> argparse.ArgumentParser:
    """The parser with both commands."""
    parser = argparse.ArgumentParser(prog="python -m training.mini", description=__doc__)
    kinds = parser.add_subparsers(dest="command", required=True)
    _register_train(kinds)
    quality_command.register(kinds)
    regions_quality.register(kinds)
    worlds_quality.register(kinds)
    return parser


def _register_train(kinds: Any) -> None:
    parser = kinds.add_parser("train", help="train one part, resumably")
    parser.add_argument("part", choices=sorted(PARTS), help="what to train")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: the part's own)")
    parser.add_argument("--minutes", type=float, help="let the schedule follow the clock instead")
    parser.add_argument("--batch", type=int, help="pictures a step (default: the part's own)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/mini"), help="checkpoint, log, result"
    )
    parser.add_argument("--cache", type=Path, default=default_cache(), help="rendered portraits")
    parser.add_argument(
        "--people",
        type=int,
        default=CachePlan().identities,
        help="invented people in the data, 8 pictures each (default: %(default)s; a few for a trial)",
    )
    parser.add_argument(
        "--second",
        action="store_true",
        help="train the second editor, which is no part of the package (parts vae, vae-decoder and flux)",
    )
    parser.add_argument("--compile", action="store_true", help="fuse FLUX's blocks (C++ compiler)")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    parser.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    """Handle `train`; returns the exit code."""
    trainer, steps, batch = PARTS[args.part]
    torch.set_flush_denormal(True)
    trainer(
        TrainPlan(
            steps=args.steps or steps,
            out=args.out,
            cache=args.cache,
            seed=args.seed,
            device=pick_device(args.device),
            minutes=args.minutes,
            resume=args.resume,
            batch=args.batch or batch,
            compile=args.compile,
            portraits=CachePlan(identities=args.people),
            anatomy=SECOND if args.second else PACKAGED,
        )
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 2 for an error the user can act on."""
    args = build_parser().parse_args(argv)
    try:
        return int(args.run(args))
    except FluxGuardError as error:
        print(error.told(TERMINAL), file=sys.stderr)
        return 2
