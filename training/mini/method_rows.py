"""What the measurement of the method keeps of one edit, and the log that a stopped run resumes from.

A log's first line says what the run shares, each further one is an edit or what was measured of the networks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.protect.presets import Preset
from fluxguard_core.weights import load_manifest

# Areas that a PSNR leaves out, from the smallest to the largest, and how a reader calls them.
AREAS = {
    "mask": "the edit mask",
    "cells": "its 8 px latent cells",
    "ring": "the cells and one more around",
}
FORMAT = 2


@dataclass(frozen=True)
class Row:
    """One portrait and edit.

    ``*_outside``: PSNR in dB against the source through the autoencoder, over the pixels outside an
    area (keys of `AREAS`; for the protected picture each area joined with what the protection may
    perturb); None where nothing lies outside. ``*_share``: the share of the picture's pixels that the
    PSNR rests on. ``edited``, ``protected``, ``noise``, ``blur``: cosines to the original by recogniser.
    ``likeness``: figures of `evaluate.likeness` of the protected face beside the edited one; None in older logs.
    """

    portrait: int
    edit: str
    hit: bool
    edit_outside: dict[str, float | None]
    edit_share: dict[str, float]
    protected_outside: dict[str, float | None]
    protected_share: dict[str, float]
    ssim: float
    thresholds: dict[str, float]
    attacked: dict[str, bool]
    edited: dict[str, float]
    protected: dict[str, float]
    noise: dict[str, float]
    blur: dict[str, float]
    likeness: dict[str, float] | None = None


def rounded(row: Row) -> Row:
    """The row with the decimals that a log keeps."""
    return Row(**shortened(asdict(row)))


def shortened(value: Any) -> Any:
    """Figures in dictionaries, with five decimals."""
    if isinstance(value, dict):
        return {key: shortened(part) for key, part in value.items()}
    return round(value, 5) if isinstance(value, float) else value


EDITS = ("lora", "attribute-editor", "attribute-judge")
"""Roles of files that no protection uses."""


def run_header(preset: Preset) -> dict[str, Any]:
    """What two rows must share to be counted together: settings and the sha256 of every weight file in use."""
    weights = {
        entry.id: entry.sha256
        for entry in load_manifest().entries
        if entry.source == "package" and entry.role not in EDITS
    }
    return {"format": FORMAT, "preset": json.loads(json.dumps(asdict(preset))), "weights": weights}


def read_rows(log: Path, header: dict[str, Any]) -> list[Row]:
    """The rows of a log, none where it does not exist yet.

    A last line cut by a kill is dropped, and logs of one run may have been put together into one file. Raises
    FluxGuardError for a log of another run or a damaged one.
    """
    return [Row(**line) for line in _lines(log, header) if "portrait" in line]


def read_networks(log: Path, header: dict[str, Any], pictures: int) -> dict[str, Any] | None:
    """What a log says of the networks by themselves, measured on that many pictures."""
    for line in _lines(log, header):
        if line.get("networks", {}).get("pictures") == pictures:
            return dict(line["networks"])
    return None


def append_row(log: Path, header: dict[str, Any], row: Row) -> None:
    """Add a row, after the header where the log is new and in place of a last line that was cut."""
    _append(log, header, {k: v for k, v in asdict(row).items() if v is not None})


def append_networks(log: Path, header: dict[str, Any], figures: dict[str, Any]) -> None:
    """Add what was measured of the networks, the number of pictures among it."""
    _append(log, header, {"networks": figures})


def _append(log: Path, header: dict[str, Any], new: dict[str, Any]) -> None:
    whole = "".join(map(_text, _lines(log, header) or [header]))
    if not log.is_file() or log.read_text(encoding="utf-8") != whole:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(whole, encoding="utf-8")
    with log.open("a", encoding="utf-8") as file:
        file.write(_text(new))


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, separators=(",", ":")) + "\n"


def _lines(log: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """Header, rows and networks as they stand in a log."""
    if not log.is_file():
        return []
    found: list[dict[str, Any]] = []
    text = log.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(text, 1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(text):
                break
            raise FluxGuardError(
                f"Line {number} of {log} is not a row of `python -m training.mini quality` ({error}). Delete that line, "
                "or give another file to --log."
            ) from error
    if found and found[0] != header:
        raise FluxGuardError(
            f"{log} holds another run: {_difference(found[0], header)}. Its rows may not be counted with this "
            "run's. Give another file to --log, or delete this one."
        )
    return found


def _difference(found: Any, header: dict[str, Any]) -> str:
    """In which way a log's first line is not this run's header."""
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        return "it has no header, or one of another version"
    if found["preset"] != header["preset"]:
        return (
            f"preset '{found['preset']['name']}' with other settings than '{header['preset']['name']}' "
            "has here"
        )
    ours, theirs = header["weights"], found["weights"]
    names: Sequence[str] = sorted(n for n in {*ours, *theirs} if ours.get(n) != theirs.get(n))
    return f"other weights of {', '.join(names)}"
