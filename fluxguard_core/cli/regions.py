"""`fluxguard regions` and `fluxguard mask`: which regions a wish names, and where they are in a photo."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..regions.words import Understanding, UnknownWords, message, understand


def register(subparsers: Any) -> None:
    """Add `regions` and `mask` to the `fluxguard` parser."""
    _register_regions(subparsers)


def _register_regions(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "regions",
        help="say which regions of a portrait a wish names",
        description="Reads a wish, or the difference of two prompts, and names the regions of the face that "
        "an edit would change. Loads no network.",
    )
    parser.add_argument("wish", metavar="WISH", help="an edit or a target prompt")
    parser.add_argument("--source", metavar="TEXT", help="prompt of the picture before the edit")
    parser.add_argument("--json", action="store_true", help="regions, unknown, kept, how")
    parser.set_defaults(run=run_regions)


def run_regions(args: argparse.Namespace) -> int:
    """Handler of `fluxguard regions`."""
    found = understand(args.wish, args.source)
    if args.json:
        print(json.dumps(_as_json(found), ensure_ascii=False))
        return 0
    if not found.regions:
        raise UnknownWords(*message(args.wish, found))
    print(", ".join(found.regions))
    if found.kept:
        print(f"kept as they are: {', '.join(found.kept)}")
    if found.unknown:
        print(f"not understood: {', '.join(found.unknown)}")
    return 0


def _as_json(found: Understanding) -> dict[str, Any]:
    return {
        "regions": list(found.regions),
        "unknown": list(found.unknown),
        "kept": list(found.kept),
        "how": found.how,
    }
