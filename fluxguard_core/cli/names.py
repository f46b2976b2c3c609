"""Where results go: every name of every picture, distinct, never an input, and fit for the file system."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import FluxGuardError

UNPROTECTED = "-unprotected"
WHERE = "-where"
_MARKS = (UNPROTECTED, WHERE)
_TEMPORARY = len("..12345678.tmp")  # what writing whole or not at all adds to a name
_LIMIT = 255  # bytes of a name on nearly every file system


@dataclass(frozen=True)
class Targets:
    """The files of one picture's result; ``protected`` is the only one to publish."""

    protected: Path

    @property
    def unprotected(self) -> Path:
        """The edit before protection, under a name that says so."""
        return self.protected.with_name(f"{self.protected.stem}{UNPROTECTED}.png")

    @property
    def where(self) -> Path:
        """Where a photo without an edit was changed."""
        return self.protected.with_name(f"{self.protected.stem}{WHERE}.png")

    @property
    def json(self) -> Path:
        """The report's numbers, and what the result was made from."""
        return self.protected.with_suffix(".json")

    @property
    def html(self) -> Path:
        """The report as a page."""
        return self.protected.with_suffix(".html")

    @property
    def every(self) -> tuple[Path, ...]:
        """All of them."""
        return self.protected, self.unprotected, self.where, self.json, self.html


def shown(path: str | os.PathLike[str]) -> str:
    """A path for the console: what is no text or no printable sign is replaced."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return "".join(sign if sign.isprintable() else "�" for sign in text)


def key(path: Path) -> str:
    """The same for two names that some file system takes for one."""
    return unicodedata.normalize("NFC", os.path.abspath(path)).casefold()


def single_target(output: Path, inputs: Iterable[Path]) -> Targets:
    """The result's files where the name was given; FluxGuardError where it will not do."""
    if output.suffix.lower() != ".png":
        raise FluxGuardError(
            f"Expected an output file ending in .png, got '{shown(output.name)}'. PNG keeps the protection exactly; "
            "recompress a copy if you must."
        )
    if output.stem.casefold().endswith(_MARKS):
        raise FluxGuardError(
            f"{shown(output.name)} is a name for what is not protected, and the result is.",
            "Choose another ‹give output›.",
        )
    targets = Targets(output)
    check_not_read(targets.every, inputs)
    longest = max(len(os.fsencode(path.name)) for path in targets.every) + _TEMPORARY
    if longest > _limit(output.parent):
        raise FluxGuardError(
            f"The name {shown(output.name)[:40]}... is too long for the file system: with what is added to it, "
            f"{longest} bytes of {_limit(output.parent)}.",
            "Choose a shorter ‹give output›.",
        )
    return targets


def folder_targets(
    photos: Sequence[Path], root: Path, output: Path, inputs: Iterable[Path]
) -> tuple[Targets, ...]:
    """A result's files for each photo of a folder, in sub-folders as the photos are.

    The names depend on the folder's photos alone, so a second run finds the results of the first.
    """
    places = [output / path.relative_to(root).parent for path in photos]
    # A sub-folder may have a picture's name; its results need a folder of that name, too.
    folders = {key(folder) for place in places for folder in (place, *place.parents)}
    taken = {key(path) for path in inputs} | folders
    stems = Counter(key(path.with_suffix("")) for path in photos)
    found = []
    for path, place in zip(photos, places, strict=True):
        alone = stems[key(path.with_suffix(""))] == 1
        for name in _candidates(path, alone, _limit(output)):
            targets = Targets(place / f"{name}.png")
            if not any(key(file) in taken for file in targets.every):
                break
        taken |= {key(file) for file in targets.every}
        found.append(targets)
    return tuple(found)


def _candidates(path: Path, alone: bool, limit: int) -> Iterator[str]:
    """The stem; with the format where several photos share it, or it marks what is not protected; then numbers."""
    form = path.suffix[1:].lower()
    room = limit - _TEMPORARY - len(f"{UNPROTECTED}.png")
    bare = _cut(path.stem, room)
    if alone and not bare.casefold().endswith(_MARKS):
        yield bare
    ends = (f"-{form}", *(f"-{form}-{number}" for number in range(2, 10_000)))
    for end in ends:
        yield _cut(path.stem, room - len(os.fsencode(end))) + end


def _cut(stem: str, room: int) -> str:
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return stem


def check_not_read(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """FluxGuardError where one of the files to write is one that is read."""
    taken = {key(path): path for path in inputs}
    for path in outputs:
        same = taken.get(key(path)) or next((p for p in taken.values() if _one_file(p, path)), None)
        if same is not None:
            raise FluxGuardError(
                f"{shown(path.name)} would take the place of {shown(same.name)}, which is read.",
                "Choose another ‹give output›.",
            )


def check_place(folder: Path, targets: Iterable[Targets]) -> Path:
    """The nearest folder that exists; FluxGuardError where results cannot be written into ``folder``."""
    files = [path for each in targets for path in each.every]
    check_writable(files)
    return _nearest(folder)


def check_writable(files: Iterable[Path]) -> None:
    """FluxGuardError where one of these files could not be written: its folder, or what lies in its place."""
    files = list(files)
    for folder in dict.fromkeys(path.parent for path in files):
        place = _nearest(folder)
        try:
            if not place.is_dir():
                what = "a link to nothing" if place.is_symlink() else "a file"
                raise NotADirectoryError(20, f"there is {what} in its place")
            with tempfile.TemporaryFile(dir=place):
                pass
            if place != folder:  # some systems let a file be made where a folder cannot be
                os.rmdir(tempfile.mkdtemp(prefix=".fluxguard-", dir=place))
        except OSError as error:
            raise FluxGuardError(
                f"Results cannot be written to {shown(folder)}: {error.strerror or error}.",
                "Choose another ‹give output›.",
            ) from error
    for path in files:
        if path.exists() and not path.is_file():
            raise FluxGuardError(
                f"{shown(path)} is there already and is no file.",
                "Choose another ‹give output›.",
            )


def _nearest(folder: Path) -> Path:
    """The folder itself or the nearest one above it where anything lies, a link to nothing included."""
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    return place


def _limit(folder: Path) -> int:
    place = _nearest(folder)
    try:
        return min(os.pathconf(place, "PC_NAME_MAX"), _LIMIT)
    except (AttributeError, OSError, ValueError):
        return _LIMIT


def _one_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
