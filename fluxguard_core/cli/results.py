"""Results on disk: whole or not at all, written as soon as they exist, and known again by a later run."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from .. import __version__
from ..evaluate.html import write_html
from ..evaluate.likeness import heat_picture
from ..evaluate.report import Pictures, Report, without_folders
from ..pictures.files import Picture, png_bytes, write_atomic
from ..pipelines.photo import Protected
from ..pipelines.unedited import Kept
from .names import Targets

_STATE = "result"
_BESIDE = "beside"
# What changes where results go or what is told about them, and not the pictures.
_NO_SETTING = frozenset(
    {
        *("photo", "output", "again", "dry_run", "quiet", "html", "recursive", "run", "command"),
        *("device", "offload", "second", "shield_command", "ray"),
    }
)


@dataclass(frozen=True)
class Made:
    """What a result is made from, as one digest of the photo and the settings together."""

    digest: str

    @staticmethod
    def of(photo: Path, settings: str) -> Made:
        """From a photo's bytes; a file that cannot be read has a digest of its own, and fails in its turn."""
        content = b""
        with contextlib.suppress(OSError):
            content = photo.read_bytes()
        return Made(
            hashlib.sha256(settings.encode() + hashlib.sha256(content).digest()).hexdigest()
        )


def settings_digest(args: argparse.Namespace, preset: Any, files: Iterable[Path]) -> str:
    """All that decides about the pictures: options, preset, the files that were named, the version."""
    chosen = {k: v for k, v in vars(args).items() if k not in _NO_SETTING}
    parts = [__version__, repr(sorted(chosen.items())), repr(preset)]
    for file in files:
        if file.is_file():
            parts.append(f"{file.name} {file.stat().st_size}")
            if file.stat().st_size < 2**26:
                parts.append(hashlib.sha256(file.read_bytes()).hexdigest())
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def is_foreign(targets: Targets) -> Path | None:
    """A file in a result's place that FluxGuard has not written, if there is one."""
    there = [path for path in targets.every if path.exists()]
    if not there or _state(targets) is not None:
        return None
    return there[0]


def is_made(targets: Targets, made: Made, *, html: bool) -> bool:
    """Whether the result of this photo and these settings is there, whole and measured."""
    state = _state(targets) or {}
    if state.get("made_from") != made.digest or state.get("state") != "finished":
        return False
    if html and not targets.html.is_file():
        return False
    try:
        return _sha256(targets.protected.read_bytes()) == state.get("protected_sha256")
    except OSError:
        return False


def sweep(targets: Targets) -> None:
    """Remove what a killed run was writing when it ended."""
    for path in targets.every:
        for left in path.parent.glob(f".{_plain(path.name)}.????????.tmp"):
            left.unlink(missing_ok=True)


class Measured(Protocol):
    """A result after the measuring: its report and what illustrates it, or why there is none."""

    @property
    def report(self) -> Report | None: ...

    @property
    def pictures(self) -> Pictures | None: ...

    @property
    def unmeasured(self) -> str: ...


def keep_edit(targets: Targets, picture: Picture, made: Made, result: Protected) -> dict[str, Any]:
    """Write an edit with and without protection, and the numbers that are known before anything is measured."""
    numbers = {
        "prompt": result.job.prompt,
        "source_prompt": result.job.source_prompt,
        "preset": result.job.preset.name,
        "evaluations": result.outcome.evaluations,
        "seconds": dict(result.seconds),
    }
    beside = {targets.unprotected: replace(picture, rgb=result.edited)}
    protected = replace(picture, rgb=result.protected)
    stopped = result.outcome.interrupted
    return _keep(targets, made, protected, beside, numbers, stopped=stopped)


def keep_photo(targets: Targets, picture: Picture, made: Made, result: Kept) -> dict[str, Any]:
    """Write a photo that was protected as it is, and where it was changed."""
    numbers = {"preset": result.wishes.preset.name, "seconds": dict(result.seconds)}
    heat = heat_picture(result.photo, result.protected)
    protected = replace(picture, rgb=result.protected)
    beside = {targets.where: Picture(heat)}
    return _keep(targets, made, protected, beside, numbers, stopped=result.interrupted)


def _keep(
    targets: Targets,
    made: Made,
    protected: Picture,
    beside: Mapping[Path, Picture],
    numbers: dict[str, Any],
    *,
    stopped: bool,
) -> dict[str, Any]:
    """The numbers go first: a picture never lies there without the word that it is a result."""
    data = png_bytes(protected)
    _clear(targets)
    known = {
        _STATE: {
            "state": "stopped" if stopped else "not measured yet",
            "made_from": made.digest,
            "protected_sha256": _sha256(data),
            _BESIDE: [kind for kind, path in _companions(targets).items() if path in beside],
        },
        "version": __version__,
        **numbers,
    }
    _write_json(targets, known)
    write_atomic(targets.protected, data)
    for path, picture in beside.items():
        write_atomic(path, png_bytes(picture))
    return known


def finish(targets: Targets, known: dict[str, Any], result: Measured, *, html: bool) -> None:
    """Write what was measured, or why nothing was; the numbers last, for they say that all is done."""
    state = dict(known[_STATE])
    if state["state"] != "stopped":
        state["state"] = "finished"
    if result.report is None or result.pictures is None:
        _write_json(targets, {**known, _STATE: state, "unmeasured": result.unmeasured})
        return
    if html:
        write_html(targets.html, result.report, result.pictures)
        state[_BESIDE] = [*state[_BESIDE], "html"]
    _write_json(targets, {**result.report.to_dict(), _STATE: state})


def store(
    targets: Targets,
    picture: Picture,
    made: Made,
    protected: Tensor,
    numbers: dict[str, Any],
    *,
    stopped: bool,
) -> None:
    """Write one picture and its numbers; the numbers go first, and again when all is done."""
    sweep(targets)
    _clear(targets)
    data = png_bytes(replace(picture, rgb=protected))
    state = {
        "state": "stopped",
        "made_from": made.digest,
        "protected_sha256": _sha256(data),
    }
    known = {"version": __version__, **numbers}
    _write_json(targets, {_STATE: state, **known})
    write_atomic(targets.protected, data)
    if not stopped:
        _write_json(targets, {_STATE: {**state, "state": "finished"}, **known})


def _companions(targets: Targets) -> dict[str, Path]:
    """What may lie beside a result and its numbers, by its kind."""
    return {"unprotected": targets.unprotected, "where": targets.where, "html": targets.html}


def _clear(targets: Targets) -> None:
    """Remove what an earlier run wrote beside its result: it shows another picture than the one that comes now."""
    written = (_state(targets) or {}).get(_BESIDE, [])
    for kind, path in _companions(targets).items():
        if kind in written:
            path.unlink(missing_ok=True)


def _write_json(targets: Targets, values: dict[str, Any]) -> None:
    text = json.dumps(without_folders(values), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(targets.json, text + "\n")


def _state(targets: Targets) -> dict[str, Any] | None:
    try:
        values = json.loads(targets.json.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    state = values.get(_STATE) if isinstance(values, dict) else None
    return state if isinstance(state, dict) and "made_from" in state else None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _plain(name: str) -> str:
    """A name whose signs mean nothing to ``glob``."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)
