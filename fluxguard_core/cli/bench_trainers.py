"""`fluxguard bench trainers`: LoRAs of drawn people, trained on shielded pictures by trainers that really train."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..defences.budget import with_budget
from ..defences.surrogates import surrogate
from ..defences.training import TrainingShield, shield_training
from ..evaluate.quality import psnr
from ..evaluate.shield_rows import CLEAN, TrainerCell, append, check_settings, read, trainer_table
from ..pictures.files import read_picture, write_png
from .bench_shields import random_signs

# The miniature learns a person at a rate that FLUX would not bear; its stand-ins train as its attackers do.
_OURS = TrainingShield(epochs=6, static_steps=60, rate=4e-3)
ARMS: dict[str, TrainingShield | None] = {
    CLEAN: None,
    "noise": None,
    "light": replace(_OURS, attention=0, conditional=6, static_steps=0, backward=False),
    "FSMG-like": replace(_OURS, attention=0, conditional=6, fitting=0, static_steps=0),
    "ASPL-like": replace(_OURS, attention=0, conditional=6, static_steps=0),
    "ours": _OURS,
}
"""Equal budgets and equal numbers of steps: FSMG and ASPL (Anti-DreamBooth) raise the training error of the untouched
model and of one that is trained on the shielded pictures; ours turns attention away as well."""


def register(kinds: Any) -> None:
    """Add `bench trainers`."""
    parser = kinds.add_parser(
        "trainers",
        help="the shield against training on the miniature, against LoRAs that are trained",
        description="Shields four portraits of each person, trains a LoRA on them and one on the originals, and asks "
        "recognisers whom the pictures of both show. A run that was stopped goes on where it was.",
    )
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument(
        "--budget", type=int, action="append", help="of 255, may be repeated (default: 8)"
    )
    parser.add_argument(
        "--arm", action="append", choices=ARMS, help="may be repeated (default: all)"
    )
    parser.add_argument(
        "--steps", type=int, default=80, help="of every LoRA (default: %(default)s)"
    )
    parser.add_argument(
        "--second", type=Path, metavar="DIR", help="train on the second editor, too"
    )
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="compute in bfloat16: about twice as fast on processors that know it",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Handle `bench trainers`."""
    from ..mini.attackers import second_editor
    from ..mini.models import use_one_thread
    from ..mini.trainers import judges
    from ..mini.world import load_stack

    use_one_thread()
    stack = load_stack()
    trainers = {"first FLUX": stack}
    if args.second is not None:
        trainers["second FLUX"] = second_editor(args.second)
    pictures = args.output / "shielded"
    pictures.mkdir(parents=True, exist_ok=True)
    check_settings(args.output, {"steps": args.steps, "bfloat16": args.bfloat16})
    bench = _Bench(stack, trainers, judges(), pictures, args.steps)
    log = args.output / "trainers.jsonl"
    known = {(c.person, c.budget, c.arm, c.trainer) for c in read(log, TrainerCell)}
    for person, budget, arm in _cells(args):
        missing = [t for t in trainers if (person, budget, arm, t) not in known]
        if missing:
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
                append(log, bench.cells(person, budget, arm, missing))
            print(f"person {person}, {budget} of 255, {arm}", flush=True)
    told = trainer_table(read(log, TrainerCell))
    (args.output / "trainers.md").write_text(told + "\n", encoding="utf-8")
    print(told)
    return 0


def _cells(args: argparse.Namespace) -> Iterator[tuple[int, int, str]]:
    for person in range(args.people):
        for budget in args.budget or [8]:
            for arm in args.arm or ARMS:
                yield person, budget, arm


@dataclass(frozen=True, eq=False)
class _Bench:
    stack: Any
    trainers: dict[str, Any]
    recognisers: Any
    folder: Path
    steps: int

    def cells(self, person: int, budget: int, arm: str, wanted: list[str]) -> list[TrainerCell]:
        """The wanted trainers on one person's shielded pictures."""
        from ..mini.trainers import LoraPlan, lora_pictures, shots_of, shown

        pictures, others = shots_of(person)
        shielded = self._shielded(pictures, person, budget, arm)
        found = []
        for trainer in wanted:
            plan = LoraPlan(steps=self.steps)
            made = lora_pictures(self.trainers[trainer], shielded, plan, seed=person).float()
            told = shown(made, others, self.recognisers)
            found.append(
                TrainerCell(
                    person=person,
                    arm=arm,
                    budget=budget,
                    trainer=trainer,
                    found=told.found,
                    match=told.match,
                    similarity=told.similarity,
                    visible=min(99.0, psnr(shielded, pictures)),
                )
            )
            write_png(
                self.folder / f"{person}-{budget}-{arm}-{trainer}.png".replace(" ", "-"),
                torch.cat(list(made), -1)[None],
            )
        return found

    def _shielded(self, pictures: Tensor, person: int, budget: int, arm: str) -> Tensor:
        """The person's pictures under one arm; made once and kept."""
        shield = ARMS[arm]
        if arm == CLEAN:
            return pictures
        if shield is None:
            return random_signs(pictures, budget, person)
        files = [self.folder / f"{person}-{budget}-{arm}-{n}.png" for n in range(len(pictures))]
        if not all(file.exists() for file in files):
            asked = with_budget(shield, budget / 255)
            done = shield_training(
                [one[None] for one in pictures], surrogate(self.stack), asked, seed=person
            )
            for file, one in zip(files, done, strict=True):
                write_png(file, one.picture.float())
        return torch.cat([read_picture(file).rgb for file in files])
