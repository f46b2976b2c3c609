"""`python -m training.mini regions`: how well a source finds each region, against the renderer's own labels."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fluxguard_core.mini.faces import parse_face
from fluxguard_core.mini.models import use_one_thread
from fluxguard_core.mini.people import HELD_OUT_WORLD, spec_of
from fluxguard_core.mini.renderer import render_batch
from fluxguard_core.regions import RULES, NoFace, face_frame

AIM = 0.85
# A region of fewer true pixels is not asked: one pixel more or less would decide.
LEAST_PIXELS = 12


def register(kinds: Any) -> None:
    """Add `regions` to the `mini` command."""
    parser = kinds.add_parser("regions", help="overlap of every region with the renderer's labels")
    parser.add_argument("--people", type=int, default=200, help="held-out people, a picture each")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def masks_of(labels: Tensor) -> dict[str, Tensor]:
    """Every region's pixels, bool [H,W], on labels [H,W]; empty ones where no face is seen."""
    try:
        frame = face_frame(labels)
    except NoFace:
        return {region: torch.zeros_like(labels, dtype=torch.bool) for region in RULES}
    return {region: rule(labels, frame) for region, rule in RULES.items()}


def overlaps(parse: Callable[[Tensor], Tensor], people: int) -> dict[str, list[float]]:
    """IoU by region for each held-out person who shows it, between parsed and true labels."""
    found: dict[str, list[float]] = {region: [] for region in RULES}
    for person in range(people):
        images, labels, _ = render_batch([spec_of(HELD_OUT_WORLD, person, 0)])
        true, seen = masks_of(labels[0]), masks_of(parse(images[0]))
        for region in RULES:
            if int(true[region].sum()) >= LEAST_PIXELS:
                both = float((true[region] & seen[region]).sum())
                found[region].append(both / float((true[region] | seen[region]).sum()))
    return found


def summary(found: dict[str, list[float]]) -> dict[str, Any]:
    """Mean and worst tenth by region, and the mean over regions."""
    rows = {}
    for region, values in found.items():
        if values:
            scores = torch.tensor(values)
            tenth = float(scores.quantile(0.1))
            rows[region] = {"iou": float(scores.mean()), "tenth": tenth, "people": len(values)}
    mean = sum(row["iou"] for row in rows.values()) / max(1, len(rows))
    return {"source": "parser", "regions": rows, "mean": mean, "aim": AIM}


def run(args: argparse.Namespace) -> int:
    """Handler of `python -m training.mini regions`."""
    use_one_thread()
    figures = summary(overlaps(parse_face, args.people))
    if args.json:
        print(json.dumps(figures))
        return 0
    print(f"{'region':12} {'IoU':>6} {'tenth':>6} {'people':>7}")
    for region, row in figures["regions"].items():
        print(f"{region:12} {row['iou']:6.3f} {row['tenth']:6.3f} {row['people']:7d}")
    reached = "reached" if figures["mean"] >= AIM else "missed"
    print(f"{'mean':12} {figures['mean']:6.3f}  aim {AIM}: {reached}")
    return 0
