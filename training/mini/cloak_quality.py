"""What a cloak does to recognisers on held-out drawn people, beside noise of the same size.

python -m training.mini.cloak_quality CLOAK [--people N] [--log FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fluxguard_core.defences.cloak import Cloak, load_cloak
from fluxguard_core.defences.cloak_faces import working_side
from fluxguard_core.evaluate.haarpsi import haarpsi
from fluxguard_core.evaluate.quality import eight_bit, psnr
from fluxguard_core.evaluate.transforms import jpeg
from fluxguard_core.faces.alignment import align
from fluxguard_core.mini.faces import load_ensemble
from fluxguard_core.recognition.encoder import FaceEncoder

from .attributes_ship import person


def cloaked(cloak: Cloak, picture: Tensor, points: Tensor) -> Tensor:
    """One picture [1, 3, H, W] as `fluxguard cloak apply` makes it."""
    size = (picture.shape[-2], picture.shape[-1])
    return cloak(picture, working=working_side(size, points, cloak.eyes))


def noise_like(made: Tensor, picture: Tensor, seed: int) -> Tensor:
    """The picture with as large a change at each value as the cloak's is in the mean, of random sign."""
    generator = torch.Generator().manual_seed(seed)
    sign = (torch.rand(picture.shape, generator=generator) < 0.5).float() * 2 - 1
    size = float((made - picture).square().mean().sqrt())
    return eight_bit(picture + sign * size)


@torch.no_grad()
def _alike(encoder: FaceEncoder, one: Tensor, other: Tensor, points: Tensor) -> float:
    vectors = [encoder(align(x, points[None], encoder.crop))[0] for x in (one, other)]
    return float(vectors[0] @ vectors[1])


def rows_of(cloak: Cloak, number: int) -> list[dict[str, object]]:
    """One person's rows: similarity to the plain picture by recogniser and kind of change."""
    _, picture, points = person(number)
    made = cloaked(cloak, picture, points)
    noise = noise_like(made, picture, number)
    kinds = {"cloak": made, "cloak, JPEG 75": jpeg(75)(made), "noise": noise}
    ensemble = load_ensemble(held_out=["mobileface"])
    return [
        {
            "person": number,
            "kind": kind,
            "recogniser": encoder.name,
            "attacked": encoder in ensemble.attacked,
            "alike": _alike(encoder, picture, changed, points),
            "threshold": encoder.threshold(),
            "psnr": psnr(changed, picture),
            "haarpsi": float(haarpsi(changed, picture)),
        }
        for kind, changed in kinds.items()
        for encoder in ensemble.members
    ]


def table(rows: Sequence[dict[str, object]]) -> list[str]:
    """Markdown: mean similarity and share still matching, by kind and recogniser."""
    lines = [
        "| change | recogniser | role | similarity | still match | PSNR | HaarPSI |",
        "|---|---|---|---|---|---|---|",
    ]
    keys = dict.fromkeys((r["kind"], r["recogniser"], r["attacked"]) for r in rows)
    for kind, name, attacked in keys:
        chosen = [r for r in rows if (r["kind"], r["recogniser"]) == (kind, name)]
        alike = [float(str(r["alike"])) for r in chosen]
        matched = sum(float(str(r["alike"])) > float(str(r["threshold"])) for r in chosen)
        decibels = sum(float(str(r["psnr"])) for r in chosen) / len(chosen)
        likeness = sum(float(str(r["haarpsi"])) for r in chosen) / len(chosen)
        role = "attacked" if attacked else "held out"
        mean = sum(alike) / len(alike)
        lines.append(
            f"| {kind} | {name} | {role} | {mean:.2f} | {matched} of {len(chosen)} | {decibels:.1f} | "
            f"{likeness:.3f} |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, keep every row in a log."""
    parser = argparse.ArgumentParser(prog="python -m training.mini.cloak_quality")
    parser.add_argument("cloak", type=Path)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--log", type=Path)
    args = parser.parse_args(arguments)
    cloak = load_cloak(args.cloak)
    rows = [row for number in range(args.people) for row in rows_of(cloak, number)]
    if args.log is not None:
        text = "\n".join(json.dumps(row) for row in rows)
        args.log.write_text(text + "\n", encoding="utf-8")
    print("\n".join(table(rows)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
