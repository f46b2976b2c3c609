"""`fluxguard calibrate`: thresholds of a recogniser, measured on the user's own pictures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F

from ..errors import FluxGuardError
from ..recognition.encoder import FaceEncoder
from ..recognition.loading import load_encoder
from ..recognition.separation import Separation, separate
from ..recognition.thresholds import (
    FALSE_ACCEPT_RATES,
    Calibration,
    calibrate,
    fed_as,
    save_calibration,
    spread_of,
    stranger_cosines,
)
from .command_line import TERMINAL
from .finding import add_detector
from .known_faces import Gathered, embedded, gather


def register(subparsers: Any) -> None:
    """Add `calibrate` to the `fluxguard` parser."""
    parser = subparsers.add_parser(
        "calibrate",
        help="measure a recogniser's thresholds on pictures of strangers",
        description="Cosine thresholds at false accept rates, and how similar strangers are, kept beside the "
        "model file. Each picture is a person of its own, unless people have sub-folders; with "
        "sub-folders it is also seen whether the recogniser tells these people apart.",
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="recogniser files")
    parser.add_argument("--faces", required=True, type=Path, help="folder of pictures of strangers")
    add_detector(parser, "yunet; the miniature's for its own recognisers")
    parser.add_argument("--colour", choices=("rgb", "bgr", "both"), help="channel order to feed")
    parser.add_argument(
        "--far",
        type=_rate,
        action="append",
        metavar="RATE",
        help="false accept rate, may be repeated (default: 0.01, 0.001 and 0.0001)",
    )
    parser.set_defaults(run=run_calibrate)


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError("expected a rate between 0 and 1")
    return value


def run_calibrate(args: argparse.Namespace) -> int:
    """Handler of `fluxguard calibrate`; 2 where a recogniser does not tell people apart at all."""
    encoders = [load_encoder(path, colour=args.colour) for path in args.models]
    _one_world(encoders)
    gathered = gather(args, encoders[0].world)
    rates = tuple(args.far or FALSE_ACCEPT_RATES)
    refused = [
        not _calibrate(path, encoder, gathered, rates)
        for path, encoder in zip(args.models, encoders, strict=True)
    ]
    return 2 if any(refused) else 0


def _one_world(encoders: Sequence[FaceEncoder]) -> None:
    worlds = {encoder.world: encoder.name for encoder in encoders}
    if len(worlds) > 1:
        raise FluxGuardError(
            f"{worlds['drawn']} knows drawn portraits only and {worlds['photo']} photos: no folder fits "
            "both. Calibrate them one after the other."
        )


def _calibrate(
    path: Path, encoder: FaceEncoder, gathered: Gathered, rates: Sequence[float]
) -> bool:
    """Measure, say and keep one recogniser's thresholds; False where they would mean nothing."""
    vectors, people = embedded(encoder, gathered.known), gathered.people
    source = (
        f"own calibration: {len(people)} pictures of {len(set(people))} people, {gathered.detector}"
    )
    thresholds = calibrate(vectors, source, people=people, fars=rates)
    found = separate(vectors, people, far=max(rates))
    print(f"{encoder.name}: {told(found)}")
    if found.doubt:
        print(f"{encoder.name}: {found.doubt}")
    if found.useless:
        advice = (
            "Nothing was kept. See what fits it with ‹run models check FILE --faces DIR --write›."
        )
        print(f"{encoder.name}: {TERMINAL(advice)}")
        return False
    strangers = spread_of(stranger_cosines(vectors, people), source)
    mean_face = F.normalize(vectors.mean(0), dim=0)
    kept = Calibration(thresholds, encoder.colour, mean_face, strangers, fed_as(encoder))
    place = save_calibration(path, kept)
    known = {t.far: f"{t.value:.4f} ({t.pairs} pairs)" for t in thresholds}
    cells = [f"FAR {far:g}: {known.get(far, 'too few pairs')}" for far in rates]
    print(f"{encoder.name}: {', '.join(cells)} -> {place}")
    return True


def told(found: Separation) -> str:
    """A separation in a line."""
    apart = f"{found.different} pairs of strangers, mean cosine {found.strangers_mean:.3f}, spread {found.spread:.3f}"
    if found.auc is None or found.accepted is None or found.same_mean is None:
        return f"{apart}; no person has two pictures, so whether they are told apart is not known"
    return (
        f"{apart}; {found.same} pairs of one person, mean {found.same_mean:.3f}; AUC {found.auc:.4f}, "
        f"{100 * found.accepted:.0f} % recognised at FAR {found.far:g}"
    )
