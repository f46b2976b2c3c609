"""Fetch one file: resume, check, rename. The final name only ever holds a checked, whole file.

While it arrives, the file is NAME.part, with NAME.part.json telling which version of it that is.
Only the command line calls this; no other code of the package reaches the network.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from io import FileIO
from pathlib import Path
from typing import Protocol

from .errors import ConsentError, DownloadError, OfflineError
from .kinds import bytes_stand_in, stand_in
from .locking import exclusive
from .manifest import Entry
from .transfer import Body, Report, Retry, Settings, hide_login, mirrored, request
from .where import partial_path

CHUNK = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Progress(Protocol):
    """What a progress bar has to offer (tqdm does)."""

    def update(self, n: float = ...) -> bool | None: ...
    def reset(self, total: float | None = ...) -> None: ...
    def close(self) -> None: ...


@dataclass
class _Part:
    """The half-downloaded file: its bytes so far, their running hash, the version they are of."""

    path: Path
    received: int
    digest: hashlib._Hash
    validator: str | None

    @property
    def note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    def restart(self, validator: str | None) -> None:
        self.path.unlink(missing_ok=True)
        self.received, self.digest, self.validator = 0, hashlib.sha256(), validator

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def download(
    entry: Entry,
    target: Path,
    settings: Settings,
    *,
    accept_licence: bool = False,
    say: Report = lambda text: None,
    progress: Callable[[], Progress] | None = None,
    replace: bool = False,
) -> Path:
    """Bring `entry` to `target`; returns at once when a sound copy is already there.

    Another file under that name is only replaced with `replace`. ConsentError without `accept_licence` where the licence asks for it, OfflineError in offline
    mode, DownloadError for everything that went wrong.
    """
    if matches(entry, target):
        say(f"{entry.id} is already at {target}")
        return target
    if entry.url is None:
        raise DownloadError(f"{entry.id} cannot be downloaded.", entry.remedy)
    if entry.consent and not accept_licence:
        raise ConsentError(licence_question(entry))
    if settings.offline:
        raise OfflineError(
            f"{entry.id} is not here and offline mode is on (FLUXGUARD_OFFLINE or HF_HUB_OFFLINE).",
            f"Fetch {entry.url} elsewhere and put it at {target}.",
        )
    if target.exists() and not replace:
        raise DownloadError(
            f"{target} is not the {entry.id} of the manifest.",
            "Move it away, choose another folder with ‹give to›, or replace it with ‹give replace›.",
        )
    url = mirrored(entry.url, settings.mirror)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(target.name + ".lock")
        with exclusive(lock, lambda: say(f"another process is downloading {entry.id}; waiting")):
            if matches(entry, target):
                say(f"{entry.id} is already at {target}")
                return target
            return _fetch(entry, target, url, settings, say, progress)
    except OSError as error:
        raise DownloadError(
            f"Cannot write to {target.parent}: {error.strerror or error}."
        ) from error


def licence_question(entry: Entry) -> str:
    """What the user has to agree to, and how."""
    use = {True: "allowed", False: "not allowed", None: "left open"}[entry.commercial_use]
    return (
        f"{entry.id} is under: {entry.licence} ({entry.licence_url or 'no page'}); commercial use "
        f"is {use}. Read the terms; if you accept them, run "
        f"‹run models download {entry.id} --accept-licence›."
    )


def matches(entry: Entry, path: Path) -> bool:
    """Whether `path` holds the file of `entry`, as far as size and checksum are public."""
    if not path.is_file():
        return False
    if entry.size is not None and path.stat().st_size != entry.size:
        return False
    return entry.sha256 is None or file_sha256(path) == entry.sha256


def file_sha256(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _fetch(
    entry: Entry,
    target: Path,
    url: str,
    settings: Settings,
    say: Report,
    progress: Callable[[], Progress] | None,
) -> Path:
    part = _open_part(entry, partial_path(target), url)
    if part.received:
        say(f"resuming {entry.id} at {part.received:,} bytes")
    bar = progress() if progress is not None else None
    try:
        _transfer(entry, part, url, settings, say, bar)
    finally:
        if bar is not None:
            bar.close()
    _check(entry, part, url)
    _publish(part, target)
    if entry.sha256 is None:
        say(f"{entry.id} has no public checksum; sha256 of what arrived: {part.digest.hexdigest()}")
    return target


def _transfer(
    entry: Entry, part: _Part, url: str, settings: Settings, say: Report, bar: Progress | None
) -> None:
    failures = 0
    while not (part.received and part.received == entry.size):
        before = part.received
        try:
            body = request(url, settings, part.received, part.validator, say)
            with body.response:
                _receive(entry, part, url, body, bar)
            return
        except Retry as problem:
            failures = 1 if part.received > before else failures + 1
            if failures >= settings.tries:
                raise DownloadError(
                    f"{entry.id}: {problem} ({failures} tries). {part.received:,} bytes are kept.",
                    "Run the same command again to go on.",
                ) from None
            if problem.restart:
                part.restart(None)
            pause = problem.after if problem.after is not None else settings.pause * 2**failures
            say(f"{problem}; trying again in {min(pause, 60.0):.0f} s")
            time.sleep(min(pause, 60.0))


def _receive(entry: Entry, part: _Part, url: str, body: Body, bar: Progress | None) -> None:
    expected = entry.size if entry.size is not None else body.total
    if body.total is not None and entry.size is not None and body.total != entry.size:
        part.remove()
        raise DownloadError(
            f"{entry.id}: the manifest says {entry.size:,} bytes, the server offers "
            f"{body.total:,}: {_offered(body)}. Nothing was kept.",
            "Check the mirror or the connection.",
        )
    if body.start == 0:
        part.restart(body.validator)
        _note(entry, part, url)
    _room(entry, part, expected)
    if bar is not None:
        bar.reset(expected)
        bar.update(part.received)
    with part.path.open("ab", buffering=0) as file:
        _pour(entry, part, body, file, expected, bar)
        with _full_disk(entry, part):
            os.fsync(file.fileno())
    if body.total is not None and part.received < body.total:
        raise Retry(f"the connection was cut at {part.received:,} of {body.total:,} bytes")


def _offered(body: Body) -> str:
    """What another size stands for, by its first bytes."""
    start = body.response.read1(512)
    return bytes_stand_in(start) or "another file"


def _pour(
    entry: Entry,
    part: _Part,
    body: Body,
    file: FileIO,
    limit: int | None,
    bar: Progress | None,
) -> None:
    while True:
        try:
            block = body.response.read1(CHUNK)
        except (OSError, HTTPException) as error:
            raise Retry(f"the connection was cut at {part.received:,} bytes ({error})") from None
        if not block:
            return
        if limit is not None and part.received + len(block) > limit:
            part.remove()
            raise DownloadError(
                f"{entry.id}: the server sends more than the {limit:,} bytes expected. Nothing was "
                "kept.",
                "Check the mirror or the connection.",
            )
        with _full_disk(entry, part):
            written = 0
            while written < len(block):
                written += file.write(block[written:])
        part.digest.update(block)
        part.received += len(block)
        if bar is not None:
            bar.update(len(block))


@contextmanager
def _full_disk(entry: Entry, part: _Part) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        kept = part.path.stat().st_size
        raise DownloadError(
            f"{entry.id}: the disk is full ({part.path.parent}). {kept:,} bytes are kept in "
            f"{part.path.name}.",
            "Free some space and run the same command again, or delete it.",
        ) from error


def _room(entry: Entry, part: _Part, expected: int | None) -> None:
    free = shutil.disk_usage(part.path.parent).free
    needed = (expected or 0) - part.received
    if needed > free:
        raise DownloadError(
            f"{entry.id}: the disk is too full: {needed:,} bytes are needed, {free:,} are free in "
            f"{part.path.parent}.",
            "Free some space, or choose another folder with ‹give to›.",
        )


def _open_part(entry: Entry, path: Path, url: str) -> _Part:
    part = _Part(path, 0, hashlib.sha256(), None)
    try:
        note = json.loads(part.note.read_text(encoding="utf-8"))
        same = note["url"] == hide_login(url) and note["sha256"] == entry.sha256
        validator = note["validator"]
    except (OSError, ValueError, KeyError, TypeError):
        same, validator = False, None
    if not (same and isinstance(validator, str) and path.is_file()):
        part.remove()
        return part
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            part.digest.update(block)
            part.received += len(block)
    if entry.size is not None and part.received > entry.size:
        part.remove()
        return _Part(path, 0, hashlib.sha256(), None)
    part.validator = validator
    return part


def _note(entry: Entry, part: _Part, url: str) -> None:
    text = {"url": hide_login(url), "validator": part.validator, "sha256": entry.sha256}
    part.note.write_text(json.dumps(text), encoding="utf-8")


def _check(entry: Entry, part: _Part, url: str) -> None:
    got = part.digest.hexdigest()
    if part.received and (found := stand_in(part.path)):
        part.remove()
        raise DownloadError(
            f"{entry.id}: what {hide_login(url)} sent is {found}. It was deleted.",
            "Open the address in a "
            "browser to see what it asks for, or set a mirror with FLUXGUARD_MIRROR.",
        )
    if entry.size is not None and part.received != entry.size:
        problem = f"expected {entry.size:,} bytes, got {part.received:,}"
    elif entry.sha256 is not None and got != entry.sha256:
        problem = f"expected sha256 {entry.sha256}, got {got}"
    else:
        return
    part.remove()
    raise DownloadError(
        f"{entry.id}: {problem}. What {hide_login(url)} sent is not the file of the manifest and "
        "was deleted.",
        "Try again; if it stays so, the mirror or the connection alters files.",
    )


def _publish(part: _Part, target: Path) -> None:
    os.replace(part.path, target)
    part.note.unlink(missing_ok=True)
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
