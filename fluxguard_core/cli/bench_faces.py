"""`fluxguard bench faces`: likeness against protection on photos of people, by recognisers left out one by one."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import FluxGuardError
from ..evaluate.frontier import Row, against, page, row_of, table, unprotected
from ..pipelines.face_bench import BASELINES, PRESETS, Bench, Cell, leave_one_out, run_cells
from ..pipelines.face_set import chosen_pairs, embed_set, known_by, read_face_set
from ..recognition.encoder import FaceEncoder
from ..recognition.loading import load_encoder
from .sources import photo_autoencoder, recogniser_file


def register(kinds: Any) -> None:
    """Add `bench faces`."""
    parser = kinds.add_parser(
        "faces",
        help="likeness against protection on photos of people",
        description="Protects one photo of each person with every method, with one recogniser left out at a time, "
        "and lets that one compare it with the person's other photos. A run that was stopped goes on where it was.",
    )
    parser.add_argument("--faces", type=Path, required=True, help="a folder a person")
    parser.add_argument(
        "--points",
        type=Path,
        required=True,
        metavar="FILE",
        help='JSON: {"person/photo.jpg": {"points": five (x, y)}}',
    )
    parser.add_argument(
        "--recogniser",
        action="append",
        required=True,
        metavar="FILE",
        help="each judges once, while the others are attacked; two or more, may be repeated",
    )
    parser.add_argument(
        "--hold-out", action="append", default=[], metavar="FILE", help="judges only, always"
    )
    parser.add_argument(
        "--autoencoder", metavar="FILE", help="adds the presets in its latent and the pixels"
    )
    parser.add_argument(
        "--method",
        action="append",
        choices=[*PRESETS, *BASELINES],
        help=f"may be repeated (default: {', '.join([*PRESETS, *BASELINES])})",
    )
    parser.add_argument(
        "--strength",
        type=float,
        action="append",
        help="share of the default's visibility budget, may be repeated (default: 1); presets other "
        "than the default have their own",
    )
    parser.add_argument("--people", type=int, help="at most so many")
    parser.add_argument(
        "--smallest", type=float, default=40, metavar="PX", help="between the eyes (default: 40)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Handler of `fluxguard bench faces`."""
    photos = read_face_set(args.faces, args.points)
    if not photos:
        raise FluxGuardError(f"None of the photos that {args.points} names lies in {args.faces}.")
    encoders: list[FaceEncoder] = []
    judges: list[FaceEncoder] = []
    embeddings: dict[str, dict[str, Tensor]] = {}
    for path in [*args.recogniser, *args.hold_out]:
        encoder = load_encoder(recogniser_file(path)[0])
        vectors = embed_set(encoder, photos)
        encoder = known_by(encoder, vectors, photos)
        (encoders if path in args.recogniser else judges).append(encoder)
        embeddings[encoder.name] = {p.name: v for p, v in zip(photos, vectors, strict=True)}
        print(_known(encoder))
    pairs = chosen_pairs([photo for photo in photos if photo.eyes >= args.smallest])[: args.people]
    coder = None if args.autoencoder is None else photo_autoencoder(args.autoencoder)
    bench = Bench(encoders, embeddings, coder, args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    methods = _methods(args)
    print(f"{len(pairs)} people, {len(methods)} methods and strengths")
    cells = run_cells(
        bench, pairs, methods, leave_one_out(encoders, judges), args.output / "cells.jsonl", _told
    )
    _write(args.output, cells)
    return 0


def _methods(args: argparse.Namespace) -> list[tuple[str, float]]:
    out: list[tuple[str, float]] = []
    for name in args.method or [*PRESETS, *BASELINES]:
        own = name in PRESETS and name != "default"
        for strength in [1.0] if own else args.strength or [1.0]:
            out.append((name, strength))
            if args.autoencoder and name in PRESETS:
                out.append((f"{name}+latent", strength))
    return out


def _known(encoder: FaceEncoder) -> str:
    limit, strangers = encoder.thresholds[0], encoder.strangers
    assert strangers is not None
    return (
        f"{encoder.name}: threshold {encoder.threshold():.3f} ({limit.source}), "
        f"strangers {strangers.mean:.2f} ± {strangers.spread:.2f}"
    )


def _told(cell: Cell) -> None:
    kept = sum(cell.matches)
    print(
        f"{cell.method:<16} x{cell.strength:<4g} {cell.photo}, judged by {cell.judge}: {kept} of "
        f"{len(cell.matches)} match, {100 * cell.way:.0f} % of the way, {cell.seconds:.1f} s",
        flush=True,
    )


def _write(folder: Path, cells: Sequence[Cell]) -> None:
    """Table, summary and page of all cells."""
    plain = [asdict(cell) for cell in cells]
    kinds = list(dict.fromkeys((cell.method, cell.strength) for cell in cells))
    rows = [
        row_of(name, x, [c for c in plain if (c["method"], c["strength"]) == (name, x)])
        for name, x in kinds
    ]
    clean = unprotected(plain)
    strengths = dict.fromkeys(x for name, x in kinds if name.startswith("default"))
    compared = [
        result
        for x in strengths
        for name in ("default", "default+latent")
        for result in against(plain, name, BASELINES, x)
    ]
    print(table(rows, clean))
    for result in compared:
        print(
            f"{result.method} - {result.baseline}, judged by {result.judge}: {result.cosine.difference}"
        )
    summary = {
        "rows": [asdict(row) for row in rows],
        "unprotected": asdict(clean),
        "against": [asdict(result) for result in compared],
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    _write_csv(folder / "table.csv", rows)
    title = "Likeness against protection"
    (folder / "frontier.html").write_text(page(rows, clean, compared, title), encoding="utf-8")
    print(f"{folder / 'frontier.html'}, table.csv, summary.json, cells.jsonl")


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            [
                "method",
                "strength",
                "cells",
                "match",
                "low",
                "high",
                "way",
                "cosine",
                "psnr",
                "haarpsi",
                "shift",
                "skin",
                "jpeg75",
                "half",
                "seconds",
            ]
        )
        for r in rows:
            match = (r.match.value, r.match.low, r.match.high)
            figures = (r.way, r.cosine, r.psnr, r.haarpsi, r.shift, r.skin, r.spot)
            kept = (r.kept.get("jpeg75"), r.kept.get("half"))
            writer.writerow([r.method, r.strength, r.cells, *match, *figures, *kept, r.seconds])
