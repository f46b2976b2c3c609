"""`fluxguard bench cloners`: the shield against cloning on the miniature, against adapters that clone."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..defences.cloning import CloneShield, shield_cloning
from ..evaluate.cloner_rows import ClonerCell, cloner_table
from ..evaluate.quality import psnr
from ..evaluate.shield_rows import CLEAN, append, check_settings, read
from ..pictures.files import read_picture, write_png
from ..recognition.ensemble import Ensemble
from .bench_shields import random_signs

if TYPE_CHECKING:
    from ..mini.cloners import Cloner

ARMS = (CLEAN, "noise", "shielded")
ATTACKED = ("ir", "mobileface")
"""What the shield moves: the encoder of one adapter, and another recogniser beside it."""
_PICTURES = 4
JUDGES = ("irse", "vit")
"""Recognisers that neither an adapter nor the shield asks."""


def register(kinds: Any) -> None:
    """Add `bench cloners`."""
    parser = kinds.add_parser(
        "cloners",
        help="the shield against cloning on the miniature, against adapters that clone",
        description="Shields one portrait of each person, lets adapters draw the person from it, one through an encoder "
        "that the shield attacks and one through another, and asks recognisers whom the pictures show. A run "
        "that was stopped goes on where it was.",
    )
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument(
        "--budget", type=int, action="append", help="of 255, may be repeated (default: 11)"
    )
    parser.add_argument(
        "--arm", action="append", choices=ARMS, help="may be repeated (default: all)"
    )
    parser.add_argument("--steps", type=int, default=150, help="at most (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=0.1, help="cosine (default: %(default)s)")
    parser.add_argument(
        "--adapter", type=Path, required=True, metavar="DIR", help="where the adapters were trained"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Handle `bench cloners`."""
    from ..mini.cloners import ENCODERS, Cloner, load_adapter
    from ..mini.faces import load_recogniser
    from ..mini.models import use_one_thread
    from ..mini.world import load_stack

    use_one_thread()
    torch.set_flush_denormal(True)
    stack = load_stack()
    pictures = args.output / "shielded"
    pictures.mkdir(parents=True, exist_ok=True)
    check_settings(args.output, {"steps": args.steps, "limit": args.limit})
    bench = _Bench(
        {n: Cloner(stack, load_adapter(args.adapter, n), load_recogniser(n)) for n in ENCODERS},
        {name: load_recogniser(name) for name in (*ATTACKED, *JUDGES)},
        CloneShield(steps=args.steps, limit=args.limit),
        pictures,
    )
    log = args.output / "cloners.jsonl"
    known = {(c.person, c.budget, c.arm, c.encoder) for c in read(log, ClonerCell)}
    for person, budget, arm in product(range(args.people), args.budget or [11], args.arm or ARMS):
        missing = [name for name in ENCODERS if (person, budget, arm, name) not in known]
        if missing:
            append(log, bench.cells(person, budget, arm, missing))
            print(f"person {person}, {budget} of 255, {arm}", flush=True)
    told = cloner_table(read(log, ClonerCell))
    (args.output / "cloners.md").write_text(told + "\n", encoding="utf-8")
    print(told)
    return 0


@dataclass(frozen=True, eq=False)
class _Bench:
    cloners: dict[str, Cloner]
    recognisers: dict[str, Any]
    shield: CloneShield
    folder: Path

    def cells(self, person: int, budget: int, arm: str, encoders: list[str]) -> list[ClonerCell]:
        """The adapter through several encoders on one person's photo under one arm."""
        from ..mini.cloners import face_vector
        from ..mini.trainers import shots_of, shown

        shots, others = shots_of(person)
        photo = shots[:1]
        shielded = self._shielded(photo, person, budget, arm)
        judges = [self.recognisers[name] for name in JUDGES]
        found = []
        for name in encoders:
            encoder = self.cloners[name].encoder
            made = self.cloners[name].pictures(shielded, _PICTURES, seed=person)
            told = shown(made, others, judges)
            read_as = face_vector(encoder, shielded) @ face_vector(encoder, photo).T
            found.append(
                ClonerCell(
                    person=person,
                    arm=arm,
                    budget=budget,
                    encoder=name,
                    attacked=name in ATTACKED,
                    reading=float(read_as),
                    found=told.found,
                    match=told.match,
                    similarity=told.similarity,
                    visible=min(99.0, psnr(shielded, photo)),
                )
            )
            file = self.folder / f"{person}-{budget}-{arm}-{name}.png"
            write_png(file, torch.cat([shielded[0], *made], -1)[None])
        return found

    def _shielded(self, photo: Tensor, person: int, budget: int, arm: str) -> Tensor:
        """The person's photo under one arm; made once and kept."""
        from ..mini.cloners import face_points

        if arm == CLEAN:
            return photo
        if arm == "noise":
            return random_signs(photo, budget, person)
        file = self.folder / f"{person}-{budget}-{arm}.png"
        if not file.exists():
            ensemble = Ensemble(tuple(self.recognisers[name] for name in ATTACKED), ())
            asked = replace(self.shield, budget=budget / 255)
            done = shield_cloning(photo, face_points(photo), ensemble, asked, seed=person)
            write_png(file, done.picture.float())
        return read_picture(file).rgb
