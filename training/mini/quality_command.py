"""`python -m training.mini quality`: every figure of the miniature that a program can measure, and its aim."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fluxguard_core.backends.flux import FluxStack
from fluxguard_core.mini.models import miniature, use_one_thread
from fluxguard_core.protect.presets import PRESETS, preset_named

from .method_quality import measure_method
from .method_rows import append_networks, read_networks, run_header, shortened
from .method_summary import summary
from .quality import autoencoder_quality, inversion_quality, recogniser_quality, sample_quality
from .quality_readme import markdown
from .quality_table import aims, table


def register(kinds: Any) -> None:
    """Add `quality` to the `mini` command."""
    parser = kinds.add_parser("quality", help="measure the miniature on people no network has seen")
    parser.add_argument(
        "--portraits", type=int, default=100, help="for the method, five edits each"
    )
    parser.add_argument(
        "--first", type=int, default=0, metavar="N", help="number of the first portrait"
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=100,
        help="for autoencoder and samples; 0 leaves out all but the method",
    )
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help="rows as they come; resumes from it. Given again, rows are read from all and written to the first",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true", help="the README's tables")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Handler of `python -m training.mini quality`."""
    use_one_thread()
    models, preset = miniature(), preset_named(args.preset)
    rows = measure_method(
        models, preset, args.portraits, args.log, first=args.first, on_portrait=_progress()
    )
    figures: dict[str, Any] = {"preset": preset.name, "method": summary(rows)}
    if args.pictures > 0:
        figures |= networks(models.stack, args.pictures, args.log, run_header(preset))
    if args.markdown:
        print(markdown(figures))
    else:
        print(json.dumps({**figures, "aims": aims(figures)}) if args.json else table(figures))
    return 0


def networks(
    stack: FluxStack, pictures: int, logs: Sequence[Path], header: dict[str, Any]
) -> dict[str, Any]:
    """What the networks can do by themselves, from a log or measured now and added to the first one."""
    for log in logs:
        known = read_networks(log, header, pictures)
        if known is not None:
            return known
    measured: dict[str, Any] = shortened(
        {
            "pictures": pictures,
            "autoencoder": autoencoder_quality(stack, pictures),
            "samples": sample_quality(stack, pictures),
            "inversion": inversion_quality(stack, max(2, pictures // 10)),
            "recognisers": recogniser_quality(),
        }
    )
    if logs:
        append_networks(logs[0], header, measured)
    return measured


def _progress() -> Callable[[int, int], None]:
    """A line a person on stderr, with the time since the start."""
    start = time.monotonic()

    def told(done: int, total: int) -> None:
        minutes = (time.monotonic() - start) / 60
        print(f"portrait {done} of {total}, {minutes:.1f} min", file=sys.stderr, flush=True)

    return told
