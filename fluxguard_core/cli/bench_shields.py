"""`fluxguard bench shields`: the shields against edits on the miniature, against attackers that really run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..backends.flux import decode_latent, encode_image
from ..defences.budget import with_budget
from ..defences.edits import EDIT_SHIELDS, EditShield, shield_edits
from ..defences.surrogates import surrogate
from ..evaluate.quality import eight_bit, psnr, ssim
from ..evaluate.shield_rows import CLEAN, Cell, append, check_settings, page_table, read, table
from ..evaluate.transforms import Transform, autoencoder, blur, jpeg, rescale
from ..pictures.files import read_picture, write_png

if TYPE_CHECKING:
    from ..mini.attackers import Edit, Wish

BASELINE = "PGD"
SECOND = "second editor, "
_STRONG = EDIT_SHIELDS["strong"]
_TERMS = replace(_STRONG, terms={"redraw": 1.0})
ARMS: dict[str, EditShield | None] = {
    CLEAN: None,
    "noise": None,
    "encoder PGD": EditShield("encoder PGD", flat=False),
    "trajectory PGD": replace(
        _STRONG, terms={"trajectory": 1.0, "latent": 0.3}, flat=False, dynamic=False
    ),
    BASELINE: replace(_TERMS, name=BASELINE, flat=False, dynamic=False),
    "+ FDM": replace(_TERMS, name="+ FDM", dynamic=False),
    "+ DPD": replace(_TERMS, name="+ DPD", flat=False),
    "+ both": replace(_TERMS, name="+ both"),
}
"""What is compared at equal budget and equal steps; PGD and its three forms ask for a one-step redrawing."""
_HARDENINGS = 6


def register(kinds: Any) -> None:
    """Add `bench shields`."""
    parser = kinds.add_parser(
        "shields",
        help="shields against edits on the miniature, against editors that run",
        description="Shields drawn portraits of people that no network was trained on, edits both, and compares the "
        "edits. A run that was stopped goes on where it was.",
    )
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument(
        "--budget", type=int, action="append", help="of 255, may be repeated (default: 8)"
    )
    parser.add_argument(
        "--arm", action="append", choices=ARMS, help="may be repeated (default: all)"
    )
    parser.add_argument("--steps", type=int, default=40, help="of every arm (default: %(default)s)")
    parser.add_argument(
        "--second", type=Path, metavar="DIR", help="the second editor, which no shield sees"
    )
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="compute the shields in bfloat16: about twice as fast on processors that know it",
    )
    parser.add_argument(
        "--shared",
        action="store_true",
        help="attack after JPEG 75, half size, blur and a round trip, too",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Handle `bench shields`."""
    from ..mini.attackers import attackers, second_editor
    from ..mini.models import use_one_thread
    from ..mini.world import load_stack

    use_one_thread()
    stack = load_stack()
    edits = attackers(stack)
    if args.second is not None:
        edits |= attackers(second_editor(args.second), SECOND)
    pictures = args.output / "shielded"
    pictures.mkdir(parents=True, exist_ok=True)
    check_settings(args.output, {"steps": args.steps, "bfloat16": args.bfloat16})
    shielding = Shielding(args.steps, pictures, args.bfloat16)
    bench = _Bench(stack, shielding, edits, _shared(stack, everything=args.shared))
    log = args.output / "shields.jsonl"
    known = {_key(c) for c in read(log, Cell)}
    for person, budget, arm in _cells(args):
        missing = [
            (shared, attacker)
            for shared in bench.shared
            for attacker in edits
            if (person, budget, arm, shared, attacker) not in known
        ]
        if missing:
            append(log, bench.cells(person, arm, budget, missing))
            print(f"person {person}, {budget} of 255, {arm}", flush=True)
    cells = read(log, Cell)
    told = "\n\n".join(
        page_table(cells, BASELINE, editor, budget)
        for budget in dict.fromkeys(c.budget for c in cells)
        for editor in ("", SECOND)
        if any(c.attacker.startswith(editor) for c in cells)
    )
    told += "\n\n" + table(cells, BASELINE)
    (args.output / "shields.md").write_text(told + "\n", encoding="utf-8")
    print(told)
    return 0


def _key(cell: Cell) -> tuple[int, int, str, str, str]:
    return cell.person, cell.budget, cell.arm, cell.shared, cell.attacker


def _cells(args: argparse.Namespace) -> Iterator[tuple[int, int, str]]:
    for person in range(args.people):
        for budget in args.budget or [8]:
            for arm in args.arm or ARMS:
                yield person, budget, arm


def _shared(stack: Any, *, everything: bool) -> Mapping[str, Transform | None]:
    """What happens to a picture before it is edited."""
    found: dict[str, Transform | None] = {"as it is": None}
    if everything:
        again = autoencoder(
            lambda x: encode_image(stack.vae, x), lambda z: decode_latent(stack.vae, z)
        )
        found |= {one.label: one for one in (jpeg(75), rescale(0.5), blur(1.0), again)}
    return found


def random_signs(pictures: Tensor, budget: int, seed: int) -> Tensor:
    """Noise that spends the whole budget of 255 at every value."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.rand(pictures.shape, generator=generator).sub(0.5).sign()
    return eight_bit(pictures + budget / 255 * signs)


@dataclass(frozen=True, eq=False)
class Shielding:
    """Pictures under every arm; made once and kept, so that another attacker can be asked later."""

    steps: int
    folder: Path
    bfloat16: bool = False

    def __call__(self, stack: Any, picture: Tensor, arm: str, budget: int, person: int) -> Tensor:
        """The picture [1, 3, H, W] under one arm at a budget of 255."""
        shield = ARMS[arm]
        if arm == CLEAN:
            return picture
        if shield is None:
            return random_signs(picture, budget, person)
        file = self.folder / f"{person}-{budget}-{self.steps}-{arm.replace(' ', '-')}.png"
        if not file.exists():
            # The paper's cadence is unknown: a dynamic prompt moves as often in a short run as in a long one.
            every = max(1, self.steps // _HARDENINGS)
            shield = replace(with_budget(shield, budget / 255), steps=self.steps, every=every)
            # Nobody knows what will be asked: the shield is asked with the empty prompt.
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
                made = shield_edits(picture, surrogate(stack), shield, seed=person).picture
            write_png(file, made.float())
        return read_picture(file).rgb


@dataclass(frozen=True, eq=False)
class _Bench:
    stack: Any
    shielding: Shielding
    edits: Mapping[str, Edit]
    shared: Mapping[str, Transform | None]
    _originals: dict[tuple[int, str, str], Tensor] = field(default_factory=dict)

    def cells(
        self, person: int, arm: str, budget: int, wanted: list[tuple[str, str]]
    ) -> list[Cell]:
        """The wanted sharings and attackers on one person's shielded picture."""
        from ..mini.attackers import person as portrait
        from ..mini.attackers import wish_for
        from ..mini.faces import classify_attributes
        from ..mini.models import encoder_features
        from ..mini.renderer import render

        picture = eight_bit(render(portrait(person)).image[None])
        wish, features = wish_for(picture, person), encoder_features(self.stack.vae)
        shielded = self.shielding(self.stack, picture, arm, budget, person)
        found = []
        for shared, attacker in wanted:
            one = self._original(picture, person, shared, attacker, wish)
            other = self._edited(shielded, shared, attacker, wish)
            with torch.no_grad():
                apart = (features(other) - features(one)).square().mean()
            shows = classify_attributes(other)[0][wish.attribute] == wish.value
            found.append(
                Cell(
                    person=person,
                    arm=arm,
                    budget=budget,
                    attacker=attacker,
                    shared=shared,
                    psnr=min(99.0, psnr(other, one)),
                    ssim=ssim(other, one),
                    features=float(apart),
                    success=shows,
                    visible=min(99.0, psnr(shielded, picture)),
                )
            )
        return found

    def _edited(self, picture: Tensor, shared: str, attacker: str, wish: Wish) -> Tensor:
        change = self.shared[shared]
        return self.edits[attacker](picture if change is None else change(picture), wish)

    def _original(
        self, picture: Tensor, person: int, shared: str, attacker: str, wish: Wish
    ) -> Tensor:
        """The edit of the unshielded picture, made once for all arms and budgets."""
        key = person, shared, attacker
        if key not in self._originals:
            self._originals[key] = self._edited(picture, shared, attacker, wish)
        return self._originals[key]
