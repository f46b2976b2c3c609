"""The `fluxguard` command."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import FluxGuardError, Interrupted
from . import bench, demo, models, protect, regions
from . import calibrate as recognition
from . import report as evaluate
from .command_line import TERMINAL


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command."""
    parser = argparse.ArgumentParser(prog="fluxguard", description=__doc__)
    parser.add_argument("--version", action="version", version=f"fluxguard {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for area in (demo, protect, regions, evaluate, models, recognition, bench):
        area.register(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 2 for an error the user can act on, 130 for an interrupt."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Windows gives a pipe the code page of the country, in which a sign may not exist.
            stream.reconfigure(errors="replace")
    args = build_parser().parse_args(argv)
    try:
        return int(args.run(args))
    except Interrupted as error:
        print(f"fluxguard: {error.told(TERMINAL)} Nothing was ready to be saved.", file=sys.stderr)
        return 130
    except FluxGuardError as error:
        print(f"fluxguard: {error.told(TERMINAL)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe had enough; nothing more can be said, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
