"""What breaks one deepfake model, tried on the others: the most that a cloak can hope for on a model it never saw.

python -m training.mini.deepfakes_transfer --models DIR [--people N] [--log FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fluxguard_core.defences.cloak import BOUND
from fluxguard_core.defences.cloak_measures import SUCCESS
from fluxguard_core.evaluate.quality import psnr

from .attributes_ship import person
from .deepfakes_quality import ascent, errors_of
from .deepfakes_train import Models, load_models

Row = dict[str, Any]


def rows_of(models: Models, people: int, limit: float = BOUND) -> list[Row]:
    """One row for each person, model that was ascended through, and model that was then asked."""
    plain = torch.cat([person(n)[1] for n in range(people)])
    named = [models.asked_of(m, plain) for m in (*models.seen, *models.unseen)]
    asked = {m.name: torch.tensor([n % m.conditions for n in range(people)]) for m in named}
    rows: list[Row] = []
    for source in named:
        moved = ascent(source, plain, asked[source.name], limit)
        for target in named:
            errors = errors_of(target, moved, plain, asked[target.name])
            for n, error in enumerate(errors):
                decibels = round(psnr(moved[n : n + 1], plain[n : n + 1]), 2)
                told = {"from": source.name, "on": target.name, "error": error, "psnr": decibels}
                rows.append({"person": n, **told})
    return rows


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown: the share of people broken, by the model that was ascended through and the model that was asked."""
    names = list(dict.fromkeys(row["on"] for row in rows))
    lines = [
        f"| ascent through | {' | '.join(f'on {name}' for name in names)} | PSNR |",
        "|---" * (len(names) + 2) + "|",
    ]
    for source in dict.fromkeys(row["from"] for row in rows):
        cells = []
        for name in names:
            errors = [r["error"] for r in rows if (r["from"], r["on"]) == (source, name)]
            cells.append(f"{sum(e >= SUCCESS for e in errors)} of {len(errors)}")
        decibels = [r["psnr"] for r in rows if r["from"] == source]
        lines.append(f"| {source} | {' | '.join(cells)} | {sum(decibels) / len(decibels):.1f} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, keep every row in a log."""
    parser = argparse.ArgumentParser(prog="python -m training.mini.deepfakes_transfer")
    parser.add_argument("--models", type=Path, required=True, help="folder of the trained models")
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--log", type=Path)
    args = parser.parse_args(arguments)
    rows = rows_of(load_models(args.models), args.people)
    if args.log is not None:
        args.log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print("\n".join(table(rows)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
