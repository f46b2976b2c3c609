"""What a cloak does to deepfake models on held-out drawn people, beside noise of its size and after JPEG.

python -m training.mini.deepfakes_quality CLOAK --models DIR [--people N] [--log FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fluxguard_core.defences.cloak import BOUND, Cloak, load_cloak
from fluxguard_core.defences.cloak_measures import SUCCESS, frechet
from fluxguard_core.defences.cloak_targets import Deepfake, masked_error
from fluxguard_core.evaluate.quality import eight_bit, psnr
from fluxguard_core.evaluate.transforms import jpeg
from fluxguard_core.faces.alignment import align
from fluxguard_core.mini.faces import PORTRAIT_POINTS, SIDE, load_recogniser

from .attributes_ship import person
from .cloak_quality import cloaked, noise_like
from .deepfakes import sized
from .deepfakes_train import SIDE as WORKED
from .deepfakes_train import Models, load_models

Row = Mapping[str, Any]
BATCH = 20
EVERY = 5
"""One batch of so many is measured by ascent too, which takes as long as all the rest."""
STEPS = 20
"""Of gradient ascent on a single picture, what a cloak could come to at most if it had all the time."""


def ascent(model: Deepfake, pictures: Tensor, conditions: Tensor, limit: float) -> Tensor:
    """PGD on each picture for itself, through the model: an upper mark, no cloak."""
    with torch.no_grad():
        clean = model(pictures, conditions)
    random = torch.Generator().manual_seed(0)
    moved = (torch.rand(pictures.shape, generator=random) * 2 - 1) * limit
    for _ in range(STEPS):
        start = moved.requires_grad_(True)
        made = model((pictures + start).clamp(0, 1), conditions)
        small = sized(pictures, WORKED)
        (slope,) = torch.autograd.grad(masked_error(made, clean, small).sum(), start)
        moved = (moved.detach() + limit / 4 * slope.sign()).clamp(-limit, limit)
    return eight_bit(pictures + moved)


def breakable(model: Deepfake, people: int, limit: float = BOUND) -> tuple[float, float]:
    """Share of held-out people whose picture ascent breaks, one condition each in turn, and the mean masked error."""
    plain = torch.cat([person(n)[1] for n in range(people)])
    conditions = torch.tensor([n % model.conditions for n in range(people)])
    errors = errors_of(model, ascent(model, plain, conditions, limit), plain, conditions)
    return sum(e >= SUCCESS for e in errors) / people, sum(errors) / people


@torch.no_grad()
def errors_of(model: Deepfake, changed: Tensor, plain: Tensor, conditions: Tensor) -> list[float]:
    """The masked error of the outputs for changed and plain pictures [B, 3, H, W], by picture."""
    clean = model(plain, conditions)
    source = sized(plain, clean.shape[-1])
    return [round(float(e), 5) for e in masked_error(model(changed, conditions), clean, source)]


@torch.no_grad()
def _features(model: Deepfake, pictures: Tensor, conditions: Tensor) -> Tensor:
    """What a held-out recogniser sees in a model's outputs [B, D]."""
    encoder = load_recogniser("mobileface")
    outputs = torch.nn.functional.interpolate(model(pictures, conditions), (SIDE, SIDE))
    points = PORTRAIT_POINTS[None].expand(len(pictures), -1, -1)
    return encoder(align(outputs, points, encoder.crop))


def measure(cloak: Cloak, models: Models, people: int, say: Callable[[str], None]) -> list[Row]:
    """One row for each person and model, then one for each model with its Frechet distance."""
    named = [(m, True) for m in models.seen] + [(m, False) for m in models.unseen]
    rows: list[Row] = []
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {m.name: [] for m, _ in named}
    for first in range(0, people, BATCH):
        numbers = range(first, min(people, first + BATCH))
        drawn = [person(n)[1:] for n in numbers]
        plain = torch.cat([picture for picture, _ in drawn])
        made = torch.cat([cloaked(cloak, picture, points) for picture, points in drawn])
        noisy = torch.cat(
            [noise_like(made[i : i + 1], plain[i : i + 1], n) for i, n in enumerate(numbers)]
        )
        decibels = [round(psnr(made[i : i + 1], plain[i : i + 1]), 2) for i in range(len(plain))]
        for named_model, known in named:
            model = models.asked_of(named_model, plain)
            conditions = torch.tensor([n % model.conditions for n in numbers])
            kinds = {
                "cloak": (made, plain),
                "jpeg": (jpeg(75)(made), jpeg(75)(plain)),
                "noise": (noisy, plain),
            }
            if first % (EVERY * BATCH) == 0:
                kinds["ascent"] = (ascent(model, plain, conditions, cloak.limit), plain)
            errors = {k: errors_of(model, *pair, conditions) for k, pair in kinds.items()}
            for i, number in enumerate(numbers):
                told = {k: values[i] for k, values in errors.items()}
                rows.append(
                    {
                        "person": number,
                        "model": model.name,
                        "seen": known,
                        "psnr": decibels[i],
                        **told,
                    }
                )
            pair = (_features(model, plain, conditions), _features(model, made, conditions))
            seen[model.name].append(pair)
        say(f"{numbers.stop} of {people} people")
    for model, known in named:
        one, other = (torch.cat(side) for side in zip(*seen[model.name], strict=True))
        rows.append({"model": model.name, "seen": known, "frechet": round(frechet(one, other), 5)})
    return rows


def _share(people: Sequence[Row], kind: str) -> str:
    errors = [row[kind] for row in people if kind in row]
    share = f"{sum(error >= SUCCESS for error in errors) / len(errors):.0%}"
    return share if len(errors) == len(people) else f"{share} of {len(errors)}"


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown: the share of people whose outputs count as broken, by model."""
    lines = [
        "| model | in training | people | broken | after JPEG 75 | noise of its size | ascent on each picture | masked error | Frechet | PSNR |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(r["model"] for r in rows):
        people = [r for r in rows if r["model"] == name and "person" in r]
        distance = next(r["frechet"] for r in rows if r["model"] == name and "frechet" in r)
        count = len(people)
        shares = [_share(people, kind) for kind in ("cloak", "jpeg", "noise", "ascent")]
        error = sum(r["cloak"] for r in people) / count
        decibels = sum(r["psnr"] for r in people) / count
        known = "yes" if people[0]["seen"] else "**no**"
        lines.append(
            f"| {name} | {known} | {count} | {' | '.join(shares)} | {error:.3f} | {distance:.3f} | {decibels:.1f} |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, keep every row in a log."""
    parser = argparse.ArgumentParser(prog="python -m training.mini.deepfakes_quality")
    parser.add_argument("cloak", type=Path)
    parser.add_argument("--models", type=Path, required=True, help="folder of the trained models")
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--log", type=Path)
    args = parser.parse_args(arguments)
    rows = measure(load_cloak(args.cloak), load_models(args.models), args.people, print)
    if args.log is not None:
        args.log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print("\n".join(table(rows)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
