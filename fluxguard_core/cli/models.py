"""`fluxguard models list | status | download | verify | check | where`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..weights.download import Progress, download, file_sha256, licence_question
from ..weights.errors import ConsentError
from ..weights.kinds import stand_in
from ..weights.manifest import Entry, Manifest, load_manifest
from ..weights.transfer import settings_from_environment
from ..weights.where import (
    candidates,
    converted_root,
    download_target,
    find,
    partial_path,
    search_roots,
)
from .check_recogniser import add_check


def register(subparsers: Any) -> None:
    """Add the `models` command to the `fluxguard` parser."""
    models = subparsers.add_parser(
        "models", help="weight files: what there is, what is here, fetch and check"
    )
    kinds = models.add_subparsers(dest="models_command", required=True)
    _command(kinds, "list", "every file with licence and source", run_list, json_too=True)
    _command(kinds, "status", "which files are here", run_status, ids="*", json_too=True)
    fetch = _command(kinds, "download", "fetch files by id, resuming", run_download, ids="+")
    fetch.add_argument(
        "--accept-licence", action="store_true", help="agree to the non-commercial terms shown"
    )
    fetch.add_argument("--mirror", help="address to fetch from instead (or FLUXGUARD_MIRROR)")
    fetch.add_argument("--to", type=Path, metavar="DIR", help="models folder to store into")
    fetch.add_argument("--offline", action="store_true", help="fetch nothing, only say what lacks")
    fetch.add_argument("--replace", action="store_true", help="replace a different file")
    fetch.add_argument("--quiet", action="store_true", help="no progress bar")
    _command(kinds, "verify", "check size and sha256 of files here", run_verify, ids="*")
    add_check(kinds)
    _command(kinds, "where", "where files are looked for", run_where, ids="*")


def _command(
    kinds: Any,
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
    ids: str | None = None,
    json_too: bool = False,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = kinds.add_parser(name, help=text, description=text)
    if ids is not None:
        parser.add_argument("ids", nargs=ids, metavar="ID", help="ids as `models list` shows them")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="another manifest")
    if json_too:
        parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)
    return parser


def run_list(args: argparse.Namespace) -> int:
    """Print every entry: id, role, size, commercial use, source, what reads it, licence."""
    entries = load_manifest(args.manifest).entries
    if args.json:
        print(json.dumps([_facts(entry) for entry in entries], indent=2, ensure_ascii=False))
        return 0
    rows = [("ID", "ROLE", "SIZE", "COMMERCIAL", "SOURCE", "USED BY", "LICENCE")]
    for entry in entries:
        use = {True: "yes", False: "no", None: "open"}[entry.commercial_use]
        source = {"package": "included", "download": "download", "bring": "your own"}[entry.source]
        users = ", ".join(entry.used_by) or "nothing yet"
        rows.append(
            (entry.id, entry.role, size_text(entry.size), use, source, users, entry.licence)
        )
    _table(rows)
    return 0


def run_status(args: argparse.Namespace) -> int:
    """Print which files are here; sizes are checked, checksums only by `verify`."""
    entries = _chosen(load_manifest(args.manifest), args.ids)
    found = [(entry, *_state(entry)) for entry in entries]
    if args.json:
        facts = [{"id": e.id, "state": s, "path": str(p) if p else None} for e, s, p in found]
        print(json.dumps(facts, indent=2))
        return 0
    _table([("ID", "STATE", "PATH")] + [(e.id, s, str(p) if p else "") for e, s, p in found])
    here = sum(state == "here" for _, state, _ in found)
    print(f"{here} of {len(found)} files are here.")
    return 0


def run_download(args: argparse.Namespace) -> int:
    """Fetch the named files and their companions; stops at the first that fails."""
    entries = load_manifest(args.manifest).with_needs(args.ids)
    settings = settings_from_environment(args.mirror, args.offline)
    wanting = [e for e in entries if e.source != "package" and (args.to or find(e) is None)]
    refused = [e for e in wanting if e.url and e.consent and not args.accept_licence]
    if refused:  # asked before the first byte, not after an hour of downloading
        raise ConsentError("\n".join(licence_question(entry) for entry in refused))
    for entry in wanting:
        if not entry.used_by:
            print(
                f"Nothing in this version reads {entry.id}: it is for a later one.", file=sys.stderr
            )
    for entry in entries:
        here = find(entry)
        if entry.source == "package":
            print(f"{entry.id} is part of the package: {candidates(entry)[0]}")
            continue
        target = here if here is not None and args.to is None else None
        if target is None:
            target = download_target(entry, args.to)
        path = download(
            entry,
            target,
            settings,
            accept_licence=args.accept_licence,
            say=partial(print, file=sys.stderr),
            progress=None if args.quiet else partial(_bar, entry),
            replace=args.replace,
        )
        print(f"{entry.id}: {path}")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Check files that are here; 1 when one is wrong, or when one that was named is missing."""
    entries = _chosen(load_manifest(args.manifest), args.ids)
    wrong, rows = 0, [("ID", "RESULT", "PATH")]
    for entry in entries:
        path = find(entry)
        if path is None:
            if args.ids:
                wrong += 1
                rows.append((entry.id, "missing", entry.remedy))
            continue
        result = _verdict(entry, path)
        wrong += result.startswith("WRONG")
        rows.append((entry.id, result, str(path)))
    _table(rows)
    return 1 if wrong else 0


def run_where(args: argparse.Namespace) -> int:
    """Print the folders searched, or for each id the places looked at, best first."""
    if not args.ids:
        for root in search_roots():
            print(f"{root}{'' if root.is_dir() else '  (does not exist)'}")
        print(f"Converted copies of ONNX recognisers: {converted_root()}")
        return 0
    for entry in _chosen(load_manifest(args.manifest), args.ids):
        print(entry.id)
        for place in candidates(entry):
            print(f"  {'*' if place.is_file() else ' '} {place}")
    return 0


def _chosen(manifest: Manifest, ids: Sequence[str]) -> tuple[Entry, ...]:
    return tuple(manifest[i] for i in ids) if ids else manifest.entries


def _state(entry: Entry) -> tuple[str, Path | None]:
    path = find(entry)
    if path is not None:
        size = path.stat().st_size
        if entry.size is not None and size != entry.size:
            return f"wrong size ({size:,} bytes)", path
        return "here", path
    for place in candidates(entry):
        part = partial_path(place)
        if part.is_file():
            return f"half downloaded ({size_text(part.stat().st_size)})", part
    states = {"package": "not in this build", "download": "missing", "bring": "bring your own"}
    return states[entry.source], None


def _verdict(entry: Entry, path: Path) -> str:
    if path.stat().st_size and (found := stand_in(path)):
        return f"WRONG: it is {found}"
    size = path.stat().st_size
    if entry.size is not None and size != entry.size:
        return f"WRONG SIZE: {size:,} instead of {entry.size:,} bytes"
    got = file_sha256(path)
    if entry.sha256 is None:
        return f"no public checksum; sha256 {got}"
    return "sound" if got == entry.sha256 else f"WRONG SHA256: {got}"


def _facts(entry: Entry) -> dict[str, Any]:
    return {**dataclasses.asdict(entry), "source": entry.source}


def _bar(entry: Entry) -> Progress:
    from tqdm import tqdm

    bar: Progress = tqdm(desc=entry.id, total=entry.size, unit="B", unit_scale=True)
    return bar


def size_text(size: int | None) -> str:
    """A size in bytes for people: 38.7 MB; "?" when it is not known."""
    if size is None:
        return "?"
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[-1]]).rstrip())
