"""`fluxguard bench verify | identify | robust | ablate`: claims from one command, on drawn people or on the user's photos."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import FluxGuardError
from ..evaluate.evidence import Estimate, Lead, counted, estimates, figures, leads
from ..evaluate.evidence_page import csv_text, page, shown
from ..evaluate.evidence_tables import tables
from ..pictures.files import write_atomic
from ..pipelines.evidence.bench import Arm, Bench
from ..pipelines.evidence.log import Log
from ..pipelines.evidence.match import LABELS
from ..pipelines.evidence.protocols import PROTOCOLS
from ..pipelines.evidence.runner import OURS, UNPROTECTED, Run, output_log, run_protocol
from ..pipelines.evidence.treatments import treatments
from ..weights import load_manifest

HELP = {
    "verify": "do recognisers that took no part still match, against every baseline at equal closeness",
    "identify": "places in a search among hundreds, and whether protected pictures lead to each other",
    "robust": "what is left after sharing, purification, and a recogniser that has learnt of it",
    "ablate": "the default with one part out at a time",
}
ABLATED = ("default", "weight-off", "injection-off", "fusion-off", "order-released", "latent-estimate",
           "whole-frame", "views-off", "detail-off", "likeness-off")  # fmt: skip
FEW = (OURS, "released", "mi-di-ti")
COMPARED = ("match", "cos", "rank1")


def register(kinds: Any) -> None:
    """Add the four commands."""
    for name, told in HELP.items():
        parser = kinds.add_parser(
            name,
            help=told,
            description=f"{PROTOCOLS[name].title}: {told}. A run that was stopped goes on where it was; the four "
            "protocols share treated pictures and one log where they are given one output folder.",
        )
        _add_subjects(parser)
        parser.add_argument(
            "--arm",
            action="append",
            metavar="NAME",
            help="treatment, may be repeated (see the output)",
        )
        parser.add_argument(
            "--turns",
            choices=("rotate", "all"),
            default="rotate",
            help="leave one recogniser out a person in turn (default), or every one for everybody",
        )
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument(
            "--markdown", action="store_true", help="also print the tables of docs/evidence.md"
        )
        parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
        parser.set_defaults(run=run, protocol=name)


def _add_subjects(parser: Any) -> None:
    drawn = parser.add_argument_group("drawn people (default)")
    drawn.add_argument("--people", type=int, default=10, help="drawn people (default: 10)")
    drawn.add_argument("--portraits", type=int, default=3, help="of each (default: 3)")
    drawn.add_argument(
        "--gallery", type=int, default=500, help="people in the gallery (default: 500)"
    )
    photos = parser.add_argument_group("photos of people instead")
    photos.add_argument(
        "--faces", type=Path, metavar="DIR", help="a folder a person, or one folder"
    )
    photos.add_argument(
        "--identities", type=Path, metavar="FILE", help="of one folder: FILE PERSON in each line"
    )
    photos.add_argument(
        "--points",
        type=Path,
        metavar="FILE",
        help="five points a photo (default: YuNet finds them)",
    )
    photos.add_argument(
        "--targets",
        metavar="FILE|published",
        help="ATTACKED JUDGED in each line, two photos of each target; published: the four of CelebA-HQ",
    )
    photos.add_argument("--recogniser", action="append", default=[], metavar="FILE|ID")
    photos.add_argument("--hold-out", action="append", default=[], metavar="FILE|ID")
    photos.add_argument("--autoencoder", metavar="FILE", help="varied beside the pixels")


def run(args: argparse.Namespace) -> int:
    """Handler of the four commands."""
    bench, arms = _bench(args)
    known = {arm.name: arm for arm in arms}
    log = Log(output_log(args.output), _header(args, bench, arms))
    run_protocol(Run(bench, known, log, _told), PROTOCOLS[args.protocol], _chosen(args, known))
    write_results(args.output, log, known, bench)
    if args.markdown:
        print("\n\n".join(tables(log.header, log.lines).values()))
    return 0


def _told(text: str) -> None:
    print(text, flush=True)


def _bench(args: argparse.Namespace) -> tuple[Bench, list[Arm]]:
    if args.people < 2:
        raise FluxGuardError(f"An interval over people needs two of them, got {args.people}.")
    if args.faces is not None:
        from .evidence_photos import photo_bench

        return photo_bench(args)
    from ..mini.evidence import miniature_bench
    from ..mini.models import use_one_thread

    use_one_thread()
    return miniature_bench(args.people, args.portraits, args.gallery, args.turns, args.seed)


def _chosen(args: argparse.Namespace, known: dict[str, Arm]) -> list[str]:
    if args.arm:
        return list(args.arm)
    if args.protocol == "ablate":
        found = [name for name in ABLATED if name in known]
        if len(found) < 2:
            raise FluxGuardError(
                "Parts are taken out of the edit with protection, and photos are not edited here.",
                "Run it without ‹give faces›.",
            )
        return found
    if args.protocol == "robust":
        return [name for name in FEW if name in known]
    return [name for name in known if name not in ABLATED or name == OURS]


_USED = ("transformer", "autoencoder", "text-encoder", "recogniser", "parser", "landmarks")
"""Roles of shipped files that are asked here; a log goes on where others change."""


def weights_used() -> dict[str, str]:
    """The shipped files that drawn people are measured with, and what their sha256 begins with."""
    return {
        e.id: e.sha256[:12]
        for e in load_manifest().entries
        if e.source == "package" and e.sha256 and e.role in _USED
    }


def _header(args: argparse.Namespace, bench: Bench, arms: Sequence[Arm]) -> dict[str, Any]:
    """What all lines share; people and portraits may grow in number, for they are numbered, and treatments may be added."""
    settings = {a.name: hashlib.sha256(a.settings.encode()).hexdigest()[:8] for a in arms}
    thresholds = {
        encoder.name: [round(t.value, 4) for t in encoder.thresholds]
        for fold in bench.folds
        for encoder in (*fold.attacked, *fold.held_out)
    }
    return {
        "version": __version__,
        "arms": {arm.name: arm.label for arm in arms},
        "faces": "drawn" if args.faces is None else "photos",
        "settings": settings,
        "weights": weights_used() if args.faces is None else {},
        "thresholds": thresholds,
        "gallery": len(set(bench.gallery.people)),
        "turns": args.turns,
        "seed": args.seed,
    }


def write_results(folder: Path, log: Log, arms: dict[str, Arm], bench: Bench) -> None:
    """Estimates as JSON, CSV and one page, and the most telling of them on the console."""
    found = figures(log.lines)
    summed, compared = estimates(found), leads(found, OURS, COMPARED)
    counts = counted(found)
    names = {name: arm.label for name, arm in arms.items()}
    document = {
        **counts,
        "header": log.header,
        "estimates": [asdict(e) for e in summed],
        "leads": [{**asdict(c), "verdict": c.verdict} for c in compared],
    }
    write_atomic(folder / "evidence.json", json.dumps(document, indent=1) + "\n")
    write_atomic(folder / "evidence.csv", csv_text(summed))
    text = page(
        f"Evidence: {counts['portraits']} portraits of {counts['people']} people",
        summed,
        compared,
        arms=names,
        treatments={t.name: f"after {t.label}" for t in treatments(bench.models)}
        | {"adaptive": "by a recogniser that has learnt of the treatment"},
        columns={str(name): told for name, told in LABELS.items()},
        notes=notes(log.header, counts),
    )
    write_atomic(folder / "evidence.html", text)
    _tell(summed, compared, names)
    print(
        f"{counts['portraits']} portraits of {counts['people']} people: {folder / 'evidence.html'}"
    )


def notes(header: dict[str, Any], counts: dict[str, int]) -> list[str]:
    """What a reader has to know."""
    drawn = header["faces"] == "drawn"
    return [
        f"{counts['portraits']} portraits of {counts['people']} people, judged in turns "
        f"({header['turns']}): a recogniser that judges was not attacked in that turn. Gallery of "
        f"{header['gallery']} people, thresholds calibrated on it.",
        "The people are drawn and the recognisers know drawn people only: nothing here says how a "
        "recogniser of photos would judge."
        if drawn
        else "Photos are protected as they are, nothing is edited. Figures hold for the recognisers named.",
        "Means have a bootstrap over people, shares Wilson's interval with as many trials as independent ones would be "
        "worth, for several portraits or judges of one person hang together.",
        "At our SSIM, PSNR or likeness: the other treatment's change is made larger or smaller, up to four times, "
        "until the figure agrees with ours on the same portrait. It was not optimised anew at that size.",
    ]


def _tell(summed: Sequence[Estimate], compared: Sequence[Lead], names: dict[str, str]) -> None:
    main = [e for e in summed if e.judge == "all" and e.measure in ("match", "rank1", "linked")]
    for e in sorted(main, key=lambda e: (e.protocol, e.measure, e.column, e.arm != UNPROTECTED)):
        print(
            f"{e.protocol:<9} {e.measure:<7} {e.column:<9} {names.get(e.arm, e.arm):<48} "
            f"{shown(e.measure, e.interval)}"
        )
    for c in compared:
        if c.column == "likeness":
            print(f"ours minus {names.get(c.arm, c.arm)}: {c.measure} {c.interval}: {c.verdict}")
