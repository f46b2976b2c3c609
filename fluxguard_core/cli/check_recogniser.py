"""`fluxguard models check`: whether a recogniser tells people apart, and how it wants to be fed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import FluxGuardError
from ..recognition.encoder import FaceEncoder
from ..recognition.fitting import Trial, best, try_all
from ..recognition.input import InputNote, read_note, write_note
from ..recognition.loading import load_encoder
from ..recognition.separation import FEW_PAIRS, separate
from .finding import add_detector
from .known_faces import embedded, gather


def add_check(kinds: Any) -> None:
    """Add `check` to the `models` commands."""
    text = "whether a recogniser tells known people apart, and how it wants to be fed"
    parser = kinds.add_parser("check", help=text, description=text)
    parser.add_argument("file", type=Path, metavar="FILE", help="recogniser file")
    parser.add_argument(
        "--faces", required=True, type=Path, metavar="DIR", help="pictures, a sub-folder a person"
    )
    add_detector(parser, "yunet; the miniature's for its own recognisers")
    parser.add_argument(
        "--only", action="store_true", help="measure it as it is fed now, try nothing else"
    )
    parser.add_argument(
        "--write", action="store_true", help="keep what fits best in a note beside the file"
    )
    parser.set_defaults(run=run_check)


def run_check(args: argparse.Namespace) -> int:
    """Handler of `fluxguard models check`; 1 where no way of feeding tells the people apart."""
    encoder = load_encoder(args.file)
    gathered = gather(args, encoder.world)
    people = gathered.people
    same = sum(people.count(person) * (people.count(person) - 1) // 2 for person in set(people))
    if same < FEW_PAIRS or len(set(people)) < 3:
        raise FluxGuardError(
            f"{args.faces} shows {len(set(people))} people with {same} pairs of pictures of one person; expected "
            f"at least 3 people and {FEW_PAIRS} such pairs. Give every person a sub-folder with two or more "
            "pictures."
        )
    print(
        f"{encoder.name}: {len(people)} pictures of {len(set(people))} people, {gathered.detector}"
    )
    print(_HEAD)

    def embed(fed: FaceEncoder) -> Tensor:
        return embedded(fed, gathered.known)

    def say(trial: Trial) -> None:
        print(_row(trial), flush=True)

    by_points = all(item.points is not None for item in gathered.known)
    trials = (
        [_as_it_is(encoder, embed, people, say)]
        if args.only
        else try_all(encoder, embed, people, crops=by_points, told=say)
    )
    return _conclude(args, trials)


def _as_it_is(encoder: FaceEncoder, embed: Any, people: Sequence[str], say: Any) -> Trial:
    trial = Trial(InputNote(), separate(embed(encoder), people))
    say(trial)
    return trial


def _conclude(args: argparse.Namespace, trials: list[Trial]) -> int:
    fits = best(trials)
    print(f"Fits best: {described(fits.note)}." if len(trials) > 1 else "")
    if fits.separation.doubt:
        print(fits.separation.doubt)
    if fits.separation.useless:
        return 1
    if args.write and fits is not trials[0]:
        print(f"Kept in {write_note(args.file, fits.note.over(read_note(args.file)))}.")
    elif args.write:
        print("The file's own way fits best: nothing to keep.")
    return 0


_HEAD = f"{'AUC':>7} {'TAR@1e-2':>9} {'threshold':>9} {'same':>6} {'strangers':>13}  fed"


def _row(trial: Trial) -> str:
    s = trial.separation
    return (
        f"{s.auc or 0:7.4f} {s.accepted or 0:9.3f} {s.threshold:9.4f} {s.same_mean or 0:6.3f} "
        f"{s.strangers_mean:6.3f} ±{s.spread:5.3f}  {described(trial.note)}"
    )


def described(note: InputNote) -> str:
    """A note in words: what it changes against the file's own way."""
    parts: list[str] = []
    if note.range is not None:
        parts.append({"bytes": "0 to 255", "unit": "0 to 1", "symmetric": "-1 to 1"}[note.range])
    elif note.levels is not None:
        mean, std = note.levels
        parts.append(f"mean {_numbers(mean)}, std {_numbers(std)}")
    if note.colour is not None:
        parts.append(note.colour.upper())
    if note.crop is not None:
        margin = f" with a margin of {note.margin:g}" if note.margin else ""
        parts.append(f"crop {note.crop}{margin}")
    return ", ".join(parts) or "as it is"


def _numbers(level: float | tuple[float, float, float]) -> str:
    values = level if isinstance(level, tuple) else (level,)
    return "/".join(f"{value:g}" for value in values)
