"""`python -m training.mini regions`: how well each source finds each region, against the renderer's own labels."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fluxguard_core.backends.flux_concepts import flux_concepts
from fluxguard_core.mini.captions import caption
from fluxguard_core.mini.faces import find_faces, parse_face
from fluxguard_core.mini.models import use_one_thread
from fluxguard_core.mini.people import HELD_OUT_WORLD, spec_of
from fluxguard_core.mini.renderer import render_batch
from fluxguard_core.mini.text import CONCEPTS
from fluxguard_core.mini.world import load_stack
from fluxguard_core.regions import RULES, Attention, ConceptParser, NoFace, face_frame

AIMS = {
    "parser": {"mean": 0.85},
    "concepts": {
        **dict.fromkeys(("hair", "hat", "eyeglasses", "beard", "background"), 0.55),
        **dict.fromkeys(("lips", "eyes"), 0.35),
    },
}
# A region of fewer true pixels is not asked: one pixel more or less would decide.
LEAST_PIXELS = 12
# What is worn is judged also by its own pixels, on those who wear it: its region is mostly where it would be.
PIXELS = {
    "hair": (17,),
    "hat": (18,),
    "glasses": (6,),
    "background": (0,),
    "lips": (11, 12, 13),
    "eyes": (4, 5),
    "clothes": (16,),
}

Masks = dict[str, Tensor]
Seen = Callable[[Tensor, str], Tensor]
"""Picture [3,H,W] and its caption -> labels [H,W]."""


def register(kinds: Any) -> None:
    """Add `regions` to the `mini` command."""
    parser = kinds.add_parser("regions", help="overlap of every region with the renderer's labels")
    parser.add_argument("--people", type=int, default=200, help="held-out people, a picture each")
    parser.add_argument("--first", type=int, default=0, help="number of the first of them")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def masks_of(labels: Tensor, landmarks: Tensor | None = None) -> Masks:
    """Every region's pixels, bool [H,W], on labels [H,W]; empty ones where no face is seen."""
    try:
        frame = face_frame(labels, landmarks)
    except NoFace:
        return {region: torch.zeros_like(labels, dtype=torch.bool) for region in RULES}
    return {region: rule(labels, frame) for region, rule in RULES.items()}


def pixels_of(labels: Tensor) -> Masks:
    """The pixels of each thing itself."""
    kinds = {name: torch.tensor(ids, dtype=labels.dtype) for name, ids in PIXELS.items()}
    return {f"{name} itself": torch.isin(labels, ids) for name, ids in kinds.items()}


def points_of(picture: Tensor) -> Tensor | None:
    """The five points that the miniature's face finder sees."""
    faces = find_faces(picture)
    return faces[0].landmarks if faces else None


def sources() -> dict[str, Seen]:
    """The ways to find regions that are compared.

    concepts: with the face's points; alone: without them; places: the points and colours without any concept.
    """
    attend = flux_concepts(load_stack())

    def silent(picture: Tensor, phrases: Any) -> Tensor:
        return torch.zeros(len(phrases), *picture.shape[-2:])

    def concepts(attention: Attention, points: Callable[[Tensor], Tensor | None]) -> Seen:
        parser = ConceptParser(attention, CONCEPTS, points)
        return lambda picture, said: parser.asked(said)(picture)

    return {
        "parser": lambda picture, _: parse_face(picture),
        "concepts": concepts(attend, points_of),
        "alone": concepts(attend, lambda _: None),
        "places": concepts(silent, points_of),
    }


def overlaps(
    seen: Mapping[str, Seen], people: int, first: int = 0
) -> dict[str, dict[str, list[float]]]:
    """IoU by source and region for each held-out person who shows it, between seen and true labels.

    A source `union` is added of the parser and concept attention, region by region as `auto` takes them.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in (*seen, "union")}
    for person in range(first, first + people):
        spec = spec_of(HELD_OUT_WORLD, person, 0)
        images, labels, _ = render_batch([spec])
        true = {**masks_of(labels[0]), **pixels_of(labels[0])}
        masks = {
            name: _seen(look, images[0], caption(spec.attributes)) for name, look in seen.items()
        }
        if "parser" in masks and "concepts" in masks:
            masks["union"] = {
                region: mask if bool(mask.any()) else masks["concepts"][region]
                for region, mask in masks["parser"].items()
            }
        for region, mask in true.items():
            if int(mask.sum()) < LEAST_PIXELS:
                continue
            for name, own in masks.items():
                found[name].setdefault(region, []).append(_iou(mask, own[region]))
    return {name: rows for name, rows in found.items() if rows}


def _seen(look: Seen, picture: Tensor, said: str) -> Masks:
    labels = look(picture, said)
    return {**masks_of(labels, points_of(picture)), **pixels_of(labels)}


def _iou(true: Tensor, seen: Tensor) -> float:
    return float((true & seen).sum() / (true | seen).sum())


def summary(found: Mapping[str, Mapping[str, list[float]]]) -> dict[str, Any]:
    """Mean and worst tenth by source and region, the mean over regions, and what misses its aim."""
    rows: dict[str, dict[str, Any]] = {}
    for source, regions in found.items():
        rows[source] = {}
        for region, values in regions.items():
            scores = torch.tensor(values)
            tenth = float(scores.quantile(0.1))
            rows[source][region] = {
                "iou": float(scores.mean()),
                "tenth": tenth,
                "people": len(values),
            }
        shaped = [row["iou"] for region, row in rows[source].items() if region in RULES]
        rows[source]["mean"] = {"iou": sum(shaped) / len(shaped)}
    missed = [
        f"{source} {region} {rows[source][region]['iou']:.3f} < {aim}"
        for source, aims in AIMS.items()
        for region, aim in aims.items()
        if source in rows and region in rows[source] and rows[source][region]["iou"] < aim
    ]
    return {"sources": rows, "aims": AIMS, "missed": missed}


def run(args: argparse.Namespace) -> int:
    """Handler of `python -m training.mini regions`."""
    use_one_thread()
    figures = summary(overlaps(sources(), args.people, args.first))
    if args.json:
        print(json.dumps(figures))
        return 0
    rows = figures["sources"]
    print(f"{'region':18} {'people':>6} " + " ".join(f"{name:>9}" for name in rows))
    for region, row in rows["parser"].items():
        cells = " ".join(f"{rows[name][region]['iou']:9.3f}" for name in rows)
        print(f"{region:18} {row.get('people', ''):>6} {cells}")
    print(f"missed: {'; '.join(figures['missed'])}" if figures["missed"] else "every aim reached")
    return 0
