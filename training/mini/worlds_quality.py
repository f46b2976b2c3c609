"""`python -m training.mini worlds`: how often drawn portraits and photos are taken for what they are, cross-validated.

The rule of `fluxguard_core.mini.world_check` is fitted here: logistic regression on its clues. Each fit leaves out
one person's photos and a share of the portraits, and judges these.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.evaluate.transforms import jpeg
from fluxguard_core.mini.models import use_one_thread
from fluxguard_core.mini.portrait_spec import random_spec
from fluxguard_core.mini.renderer import render
from fluxguard_core.mini.world import reconstruct
from fluxguard_core.mini.world_check import WEIGHTS, clues_of, weighed
from fluxguard_core.pictures.files import read_picture
from fluxguard_core.resampling import bicubic
from fluxguard_core.worlds import World

from .styles import sepia_drawing

Change = Callable[[Tensor], Tensor]
LONGEST = 512
"""Photos are looked at no larger than this."""
PENALTY = 0.001
"""On the squared weights of clues in their own spread."""
STEPS = (0, 4, 8)
"""Which states each portrait is looked at in, counted from its number."""
FOLDS = 16
"""Shares of the portraits, where there are no photos to leave out with them."""


def resized(image: Tensor, height: int, width: int) -> Tensor:
    return bicubic(image[None], (height, width))[0].clamp(0, 1)


def grey(image: Tensor) -> Tensor:
    return image.mean(0, keepdim=True).expand(3, -1, -1)


def blurred(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    small = max(1, height // 3), max(1, width // 3)
    return resized(resized(image, *small), height, width)


CHANGES: dict[str, Change] = {
    "as it is": lambda x: x,
    "JPEG": lambda x: jpeg(60)(x[None])[0],
    "grey": grey,
    "half size": lambda x: resized(x, x.shape[-2] // 2, x.shape[-1] // 2),
    "blurred": blurred,
    "dark": lambda x: 0.25 * x,
    "low contrast": lambda x: 0.4 + 0.2 * x,
    "of a portrait's size": lambda x: resized(x, 128, 128),
}
"""What photos and drawings go through."""
DRAWN: dict[str, Change] = {
    **CHANGES,
    "four times the size": lambda x: resized(x, 512, 512),
    "sepia": lambda x: sepia_drawing(x[None])[0],
    "through the autoencoder": lambda x: reconstruct(x[None])[0],
}


@dataclass(frozen=True)
class Row:
    """One picture in one state. group: who or what is left out together; clues: None where no face could be drawn."""

    name: str
    world: World
    group: int
    change: str
    clues: dict[str, float] | None


def register(kinds: Any) -> None:
    """Add `worlds` to the `mini` command."""
    parser = kinds.add_parser("worlds", help="drawn portraits and photos told apart")
    parser.add_argument(
        "--photos", metavar="DIR", help="photos of people, a folder for each; only local measuring"
    )
    parser.add_argument("--portraits", type=int, default=300)
    parser.add_argument("--log", metavar="FILE", help="clues found already, and where new ones go")
    parser.set_defaults(run=run)


def portrait(number: int) -> Tensor:
    """A portrait [3,128,128] that no training has seen."""
    return render(random_spec(np.random.default_rng([88, number]))).image


def photo(path: Path) -> Tensor:
    """A photo [3,H,W], no side longer than `LONGEST`."""
    image = read_picture(path).rgb[0]
    longest = max(image.shape[-2:])
    if longest > LONGEST:
        height, width = (round(side * LONGEST / longest) for side in image.shape[-2:])
        image = resized(image, height, width)
    return image


def pictures(
    photos: Path | None, portraits: int
) -> Iterator[tuple[str, World, int, str, Callable[[], Tensor]]]:
    """Name, world, group, change and maker: every photo in every state, every portrait in three, in turn."""
    paths = [] if photos is None else sorted(photos.glob("*/*.jpg"))
    if photos is not None and not paths:
        raise FluxGuardError(
            f"{photos} holds no photos: expected a folder for each person with .jpg files in it.",
            "Give such a folder to ‹give photos›.",
        )
    people = list(dict.fromkeys(path.parent for path in paths))
    for number, path in enumerate(paths):
        for change, make in CHANGES.items():
            group = people.index(path.parent)
            yield (
                f"photo {number}",
                "photo",
                group,
                change,
                lambda p=path, m=make: m(photo(p)),  # type: ignore[misc]
            )
    kinds = list(DRAWN)
    for number, step in product(range(portraits), STEPS):
        change = kinds[(number + step) % len(kinds)]
        yield (
            f"portrait {number}",
            "drawn",
            number % max(FOLDS, len(people)),
            change,
            lambda n=number, c=change: DRAWN[c](portrait(n)),  # type: ignore[misc]
        )


def measured(photos: Path | None, portraits: int, log: Path | None = None) -> list[Row]:
    """The clues of every picture; those in the log are not looked for again."""
    lines = log.read_text(encoding="utf-8").splitlines() if log and log.is_file() else []
    known = {(row.name, row.change): row for row in (Row(**json.loads(line)) for line in lines)}
    rows: list[Row] = []
    for name, world, group, change, make in pictures(photos, portraits):
        row = known.get((name, change))
        if row is None:
            row = Row(name, world, group, change, clues_of(make()))
            if log is not None:
                with log.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(asdict(row)) + "\n")
        rows.append(row)
    return rows


def fitted(rows: Sequence[Row]) -> dict[str, float]:
    """Weights of the clues and a "bias", such that their sum is at least 0 for drawings."""
    seen = [row for row in rows if row.clues is not None]
    names = list(WEIGHTS)[:-1]
    values = torch.tensor([[row.clues[name] for name in names] for row in seen if row.clues])
    drawn = torch.tensor([float(row.world == "drawn") for row in seen])
    mean, spread = values.mean(0), values.std(0).clamp_min(1e-6)
    unit = (values - mean) / spread
    # Both worlds count alike, however many pictures of each there are.
    counted = torch.where(drawn > 0, 0.5 / drawn.sum(), 0.5 / (1 - drawn).sum())
    weights, bias = torch.zeros(len(names), requires_grad=True), torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        errors = F.binary_cross_entropy_with_logits(unit @ weights + bias, drawn, reduction="none")
        value = (counted * errors).sum() + PENALTY * weights.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    own = (weights / spread).detach()
    found = dict(zip(names, own.tolist(), strict=True))
    return {**found, "bias": float(bias.detach()) - float(own @ mean)}


def judged(rows: Sequence[Row], weights: Mapping[str, float]) -> list[tuple[Row, float]]:
    """Every picture with its margin: positive where it is taken for what it is."""
    found = []
    for row in rows:
        value = -math.inf if row.clues is None else weighed(row.clues, weights)
        found.append((row, value if row.world == "drawn" else -value))
    return found


def crossvalidated(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    """As `judged`, each by a rule that was fitted without its group."""
    found: list[tuple[Row, float]] = []
    for group in sorted({row.group for row in rows}):
        rest = fitted([row for row in rows if row.group != group])
        found += judged([row for row in rows if row.group == group], rest)
    return found


def summary(found: Sequence[tuple[Row, float]]) -> dict[str, Any]:
    """Counts by world, the nearest to the limit, and which were taken for the other world."""
    table: dict[str, Any] = {}
    for world in ("drawn", "photo"):
        margins = {f"{row.name}, {row.change}": m for row, m in found if row.world == world}
        table[world] = {
            "right": sum(margin >= 0 for margin in margins.values()),
            "of": len(margins),
            "nearest": min(margins.values(), default=None),
            "wrong": [name for name, margin in margins.items() if margin < 0],
        }
    return table


def run(args: argparse.Namespace) -> int:
    """Handler of `python -m training.mini worlds`."""
    use_one_thread()
    photos = None if args.photos is None else Path(args.photos)
    rows = measured(photos, args.portraits, None if args.log is None else Path(args.log))
    print("shipped rule", json.dumps(summary(judged(rows, WEIGHTS))))
    if photos is not None:
        print("cross-validated", json.dumps(summary(crossvalidated(rows))))
        told = {name: round(value, 3) for name, value in fitted(rows).items()}
        print("fitted on all", json.dumps(told))
    return 0
