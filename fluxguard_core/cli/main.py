"""The `fluxguard` command."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from .. import __version__
from ..errors import FluxGuardError, Interrupted
from .command_line import TERMINAL

# Modules of this package that register commands, in the order of the help.
AREAS = (
    "demo",
    "protect",
    "shield",
    "attributes",
    "cloak",
    "regions",
    "report",
    "models",
    "calibrate",
    "bench",
)


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser with every command, or with those of one area, whose modules alone are then loaded."""
    parser = argparse.ArgumentParser(prog="fluxguard", description=__doc__)
    parser.add_argument("--version", action="version", version=f"fluxguard {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for area in AREAS if only is None else (only,):
        import_module(f".{area}", __package__).register(subparsers)
    return parser


def _called(parser: argparse.ArgumentParser, given: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command that the words begin with: its usage helps, that of all commands does not."""
    for word in given:
        choices = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not choices or word not in choices[0]:
            break
        parser = choices[0][word]
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 2 for an error the user can act on, 130 for an interrupt."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Windows gives a pipe the code page of the country, in which a sign may not exist.
            stream.reconfigure(errors="replace")
    given = sys.argv[1:] if argv is None else list(argv)
    # Reading words needs no torch, whose loading takes longer than the answer.
    only = "regions" if given[:1] == ["regions"] else None
    parser = build_parser(only)
    args, unknown = parser.parse_known_args(given)
    if unknown:
        _called(parser, given).error(f"unrecognized arguments: {' '.join(unknown)}")
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
