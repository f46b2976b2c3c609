"""`fluxguard bench trainers`: LoRAs of drawn people, trained on shielded pictures by trainers that really train."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..backends.flux import cast
from ..defences.budget import with_budget
from ..defences.surrogates import LatentTerm, Surrogate, surrogate
from ..defences.training import TrainingShield, shield_training
from ..evaluate.quality import psnr
from ..evaluate.shield_rows import CLEAN, TrainerCell, append, check_settings, read, trainer_table
from ..pictures.files import read_picture, write_png
from ..protect.engine import DescentSettings, Draw, descend
from ..protect.optimisers import SignMomentum
from ..protect.spaces import PixelSpace
from .bench_shields import random_signs

if TYPE_CHECKING:
    from ..mini.trainers import LoraPlan

TOWARDS = "towards a stranger"
_TOWARDS_STEPS = 40
# The miniature learns a person at a rate that FLUX would not bear; its stand-ins train as its attackers do.
_OURS = TrainingShield(epochs=6, static_steps=60, rate=4e-3)
ARMS: dict[str, TrainingShield | None] = {
    CLEAN: None,
    "noise": None,
    "light": replace(_OURS, attention=0, conditional=6, static_steps=0, backward=False),
    "FSMG-like": replace(_OURS, attention=0, conditional=6, fitting=0, static_steps=0),
    "ASPL-like": replace(_OURS, attention=0, conditional=6, static_steps=0),
    "ours": _OURS,
    TOWARDS: None,
}
"""Equal budgets and equal numbers of steps: FSMG and ASPL (Anti-DreamBooth) raise the training error of the untouched
model and of one that is trained on the shielded pictures; ours turns attention away as well.
The last one asks the autoencoder alone, for the latents of somebody else in the same shots."""


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
        "--steps", type=int, default=140, help="of every LoRA (default: %(default)s)"
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
    from ..mini.trainers import LoraPlan, judges
    from ..mini.world import load_stack

    use_one_thread()
    torch.set_flush_denormal(True)
    trainers = {"first FLUX": load_stack()}
    if args.second is not None:
        trainers["second FLUX"] = second_editor(args.second)
    pictures = args.output / "shielded"
    pictures.mkdir(parents=True, exist_ok=True)
    plan = LoraPlan(steps=args.steps)
    check_settings(args.output, {**asdict(plan), "bfloat16": args.bfloat16})
    if args.bfloat16:
        for stack in trainers.values():
            cast(stack.transformer, torch.bfloat16)
    bench = _Bench(trainers, judges(), pictures, plan, args.bfloat16)
    log = args.output / "trainers.jsonl"
    known = {(c.person, c.budget, c.arm, c.trainer) for c in read(log, TrainerCell)}
    for person, budget in product(range(args.people), args.budget or [8]):
        for trainer in trainers:
            arms = [a for a in args.arm or ARMS if (person, budget, a, trainer) not in known]
            if arms:
                append(log, bench.cells(person, budget, arms, trainer))
                print(f"person {person}, {budget} of 255, {trainer}: {', '.join(arms)}", flush=True)
    told = trainer_table(read(log, TrainerCell))
    (args.output / "trainers.md").write_text(told + "\n", encoding="utf-8")
    print(told)
    return 0


@dataclass(frozen=True, eq=False)
class _Bench:
    trainers: dict[str, Any]
    recognisers: Any
    folder: Path
    plan: LoraPlan
    bfloat16: bool

    def cells(self, person: int, budget: int, arms: list[str], trainer: str) -> list[TrainerCell]:
        """One trainer on one person's pictures under several arms, trained at the same noises."""
        from ..mini.trainers import lora_pictures, shots_of, shown

        pictures, others = shots_of(person)
        with self._formats():
            sets = torch.stack([self._shielded(pictures, person, budget, arm) for arm in arms])
            every = lora_pictures(self.trainers[trainer], sets, self.plan, seed=person)
        found = []
        for arm, shielded, made in zip(arms, sets, every, strict=True):
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

    def _formats(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16)

    def _shielded(self, pictures: Tensor, person: int, budget: int, arm: str) -> Tensor:
        """The person's pictures under one arm; made once and kept."""
        shield = ARMS[arm]
        if arm == CLEAN:
            return pictures
        if arm == "noise":
            return random_signs(pictures, budget, person)
        files = [self.folder / f"{person}-{budget}-{arm}-{n}.png" for n in range(len(pictures))]
        if not all(file.exists() for file in files):
            asked = surrogate(next(iter(self.trainers.values())))
            if shield is None:
                made = _towards(pictures, asked, budget, person)
            else:
                shield = with_budget(shield, budget / 255)
                made = shield_training([pictures], asked, shield, seed=person)[0].picture
            for file, one in zip(files, made.float(), strict=True):
                write_png(file, one[None])
        return torch.cat([read_picture(file).rgb for file in files])


def _towards(pictures: Tensor, asked: Surrogate, budget: int, person: int) -> Tensor:
    """The pictures with latents as near to a stranger's as the budget allows."""
    from ..mini.trainers import strangers_of

    generator = torch.Generator().manual_seed(person)
    with torch.no_grad():
        wanted = asked.encode(strangers_of(person))
    return descend(
        PixelSpace(pictures, budget / 255, generator=generator),
        [LatentTerm(asked.encode, wanted, towards=True)],
        SignMomentum(2 / 255, shrink_over=_TOWARDS_STEPS),
        DescentSettings(steps=_TOWARDS_STEPS),
        draw=lambda: Draw((), generator),
    ).variable
