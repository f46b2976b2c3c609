"""How many steps of the protection an identity cloak saves: from the cloak beside from the photo, same steps, same people.

python -m training.mini.cloak_warm CLOAK [--people N] [--steps 2,5,10,20,40] [--log FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fluxguard_core.defences.cloak import Cloak, load_cloak
from fluxguard_core.evaluate.haarpsi import haarpsi
from fluxguard_core.evaluate.quality import psnr
from fluxguard_core.faces.alignment import align
from fluxguard_core.mini.faces import load_ensemble
from fluxguard_core.protect.photo import protect_pixels
from fluxguard_core.protect.presets import photo_preset_named
from fluxguard_core.recognition.ensemble import Ensemble

from .attributes_ship import person
from .cloak_quality import cloaked

Row = dict[str, Any]
STEPS = (2, 5, 10, 20, 40)
BEGINNINGS = ("photo", "cloak")


@torch.no_grad()
def _alike(ensemble: Ensemble, one: Tensor, other: Tensor, points: Tensor) -> dict[str, float]:
    """Mean cosine of the attacked recognisers and of those held out."""
    cosines = {}
    for encoder in ensemble.members:
        a, b = (encoder(align(x, points[None], encoder.crop))[0] for x in (one, other))
        cosines[encoder] = float(a @ b)
    attacked = [c for e, c in cosines.items() if e in ensemble.attacked]
    held = [c for e, c in cosines.items() if e not in ensemble.attacked]
    return {"attacked": sum(attacked) / len(attacked), "held_out": sum(held) / len(held)}


def rows_of(cloak: Cloak, number: int, steps: Sequence[int]) -> list[Row]:
    """One person's rows, one for each beginning and number of steps; 0 steps is the beginning itself."""
    _, picture, points = person(number)
    ensemble = load_ensemble(held_out=["mobileface"])
    began = {"photo": picture, "cloak": cloaked(cloak, picture, points)}
    rows: list[Row] = []
    for beginning in BEGINNINGS:
        for count in (0, *steps):
            made = began[beginning]
            if count:
                preset = replace(photo_preset_named("default"), steps=count)
                warm = made if beginning == "cloak" else None
                made = protect_pixels(picture, ensemble, points, preset, warm=warm).picture
            alike = _alike(ensemble, picture, made, points)
            likeness = {
                "psnr": min(99.0, psnr(made, picture)),
                "haarpsi": float(haarpsi(made, picture)),
            }
            told = {k: round(v, 4) for k, v in {**alike, **likeness}.items()}
            rows.append({"person": number, "from": beginning, "steps": count, **told})
    return rows


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown: means over people, and of how many the attacked recognisers' cosine is lower from the cloak."""
    lines = [
        "| steps | attacked, from the photo | from the cloak | lower from the cloak | held out, from the photo | from the cloak | HaarPSI, from the photo | from the cloak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    people = sorted({row["person"] for row in rows})
    for count in sorted({row["steps"] for row in rows}):
        at = {(r["from"], r["person"]): r for r in rows if r["steps"] == count}

        def mean(beginning: str, key: str, at: dict[tuple[str, int], Row] = at) -> str:
            return f"{sum(at[beginning, p][key] for p in people) / len(people):.2f}"

        lower = sum(at["cloak", p]["attacked"] < at["photo", p]["attacked"] for p in people)
        cells = [str(count), *(mean(b, "attacked") for b in BEGINNINGS)]
        cells += [f"{lower} of {len(people)}", *(mean(b, "held_out") for b in BEGINNINGS)]
        cells += [mean(b, "haarpsi") for b in BEGINNINGS]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, keep every row in a log."""
    parser = argparse.ArgumentParser(prog="python -m training.mini.cloak_warm")
    parser.add_argument("cloak", type=Path)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--steps", default=",".join(map(str, STEPS)))
    parser.add_argument("--log", type=Path)
    args = parser.parse_args(arguments)
    cloak = load_cloak(args.cloak)
    steps = [int(part) for part in args.steps.split(",")]
    rows: list[Row] = []
    for number in range(args.people):
        rows += rows_of(cloak, number, steps)
        if args.log is not None:
            args.log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print("\n".join(table(rows)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
