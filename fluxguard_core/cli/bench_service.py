"""`fluxguard bench service`: what a commercial service says, with the user's key, after asking before every upload."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import FluxGuardError
from ..evaluate.statistics import Interval, wilson
from ..pictures.files import png_bytes, read_picture, write_atomic
from ..pipelines.services import PROVIDERS, Client, Provider
from .names import shown


def register(kinds: Any) -> None:
    """Add `bench service`."""
    parser = kinds.add_parser(
        "service",
        help="compare with a commercial service: uploads pictures, asks before each",
        description="Uploads faces to a company. Off unless you call it; it asks before every upload and says what is "
        "sent. Keys: "
        + "; ".join(f"{p.name}: {' and '.join(p.keys)}" for p in PROVIDERS.values())
        + ". Upload only pictures of people who agree to it; what the company keeps is its terms' matter.",
    )
    parser.add_argument("--provider", required=True, choices=PROVIDERS)
    parser.add_argument(
        "--pictures",
        nargs=3,
        action="append",
        required=True,
        type=Path,
        metavar=("OTHER", "UNPROTECTED", "PROTECTED"),
        help="another photo of the person, the picture before and after protection; may be repeated",
    )
    parser.add_argument("--endpoint", help="another address of the service")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Compared:
    """One comparison. ``score`` is None where the service found no face."""

    person: int
    picture: str
    score: float | None
    thresholds: Mapping[str, float]


def run(args: argparse.Namespace) -> int:
    """Handler of `fluxguard bench service`."""
    provider = PROVIDERS[args.provider]
    client = Client(
        provider, _keys(provider), _agreed, place=_place(provider), endpoint=args.endpoint
    )
    for path in (path for paths in args.pictures for path in paths):
        read_picture(path)  # a wrong name is told before anything is sent
    found: list[Compared] = []
    left_out = 0
    for person, (other, before, after) in enumerate(args.pictures, 1):
        for kind, path in (("unprotected", before), ("protected", after)):
            answer = client.compare(_sent(other), _sent(path))
            if answer is None:
                left_out += 1
                print(f"{shown(path.name)}: not sent")
                continue
            found.append(Compared(person, kind, answer.score, answer.thresholds))
            score = "no face found" if answer.score is None else f"{answer.score:.1f} of 100"
            print(f"{shown(path.name)} ({kind}): {score}")
    table = summed(found)
    for kind, limit, share in table:
        print(
            f"{kind:<12} matched at {limit}: {100 * share.value:.0f} % [{share.low:.2f}, {share.high:.2f}]"
        )
    if left_out:
        print(f"{left_out} comparisons were not made, for you did not agree.")
    if args.json is not None:
        document = {
            "provider": provider.title,
            "comparisons": [asdict(c) for c in found],
            "matched": [{"picture": k, "at": a, **asdict(s)} for k, a, s in table],
        }
        write_atomic(args.json, json.dumps(document, indent=1) + "\n")
    return 0


def summed(found: Sequence[Compared]) -> list[tuple[str, str, Interval]]:
    """Share of comparisons that match, by picture and by the service's threshold; unprotected first.

    A picture without a face that the service finds is not matched.
    """
    limits = list(dict.fromkeys(name for c in found for name in c.thresholds))
    out = []
    for kind in ("unprotected", "protected"):
        mine = [c for c in found if c.picture == kind]
        for limit in limits if mine else ():
            hits = sum(
                c.score is not None and c.score >= c.thresholds.get(limit, 101.0) for c in mine
            )
            out.append((kind, limit, wilson(hits, len(mine))))
    return out


def _sent(path: Path) -> tuple[str, bytes]:
    """A picture's name for the question, and its pixels alone."""
    picture = read_picture(path)
    return shown(path.name), png_bytes(replace(picture, alpha=None))


def _keys(provider: Provider) -> tuple[str, str]:
    first, second = (os.environ.get(name, "") for name in provider.keys)
    if not first or not second:
        raise FluxGuardError(
            f"{provider.title} needs your own key in the environment.",
            f"Set {' and '.join(provider.keys)}.",
        )
    return first, second


def _place(provider: Provider) -> str:
    if provider.place is None:
        return ""
    return os.environ.get(provider.place[0], "") or provider.place[1]


def _agreed(what: str) -> bool:
    """Ask on the console; whoever cannot answer has not agreed."""
    print(f"{what} [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
