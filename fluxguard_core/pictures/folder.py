"""The photos of a folder: which are taken, and which are passed over and why. For every command alike."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import PictureError
from .formats import format_of, is_raw, readable_formats, readable_suffixes, why_unreadable

# What systems and viewers leave in folders of photos; hidden files are left out by their dot.
_SYSTEM = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r", "__macosx", "@eadir"})


@dataclass(frozen=True)
class PassedOver:
    """One entry of a folder that is not worked on.

    Args:
        why: one sentence; may hold marks, as error messages do.
        shows: it may show people: a picture that cannot be read, a video, a folder. False for other files.
        missed: photos may have been left as they are that were asked for; not so with a sub-folder that was not.
    """

    path: Path
    why: str
    shows: bool = True
    missed: bool = False


@dataclass(frozen=True)
class Photos:
    """What a folder holds; both lists in the order of their names, hidden files in neither."""

    folder: Path
    taken: tuple[Path, ...]
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def missed(self) -> int:
        """How many entries that were asked for may show people and are passed over."""
        return sum(entry.missed for entry in self.passed_over)

    def told(self) -> list[str]:
        """A line for each entry passed over that may show people, with its path inside the folder."""
        return [
            f"{entry.path.relative_to(self.folder)}: {entry.why}"
            for entry in self.passed_over
            if entry.shows
        ]


def photos_in(folder: str | os.PathLike[str], *, recursive: bool = False) -> Photos:
    """The photos of a folder; with ``recursive`` those of the folders in it, too.

    A file is a photo by its suffix or, where the suffix says nothing, by its first bytes. Hidden files and
    folders (``._`` companions among them) are left out. No file is read beyond 12 bytes.

    Raises:
        PictureError: the folder is none, may not be read, or holds no photo.
    """
    root = Path(folder)
    if not root.is_dir():
        what = "is a file, not a folder" if root.is_file() else "does not exist"
        raise PictureError(f"The folder {root} {what}.", "Give a folder of photos.")
    taken: list[Path] = []
    passed: list[PassedOver] = []
    for path, why in _entries(root, recursive, frozenset({root.resolve()})):
        if why is None:
            taken.append(path)
        else:
            passed.append(why)
    photos = Photos(root, tuple(taken), tuple(passed))
    if not taken:
        reasons = " ".join(photos.told()[:3]) or f"Read are {', '.join(readable_suffixes())}."
        raise PictureError(f"There is no photo in the folder {root.name}.", reasons)
    return photos


def _entries(
    folder: Path, recursive: bool, above: frozenset[Path]
) -> Iterator[tuple[Path, PassedOver | None]]:
    """Each entry, with None where it is taken; ``above`` keeps links from leading round in circles."""
    try:
        names = sorted(os.listdir(folder), key=lambda name: (name.casefold(), name))
    except OSError as error:
        why = f"It may not be read ({error.strerror or error})."
        yield folder, PassedOver(folder, why, missed=True)
        return
    for name in names:
        path = folder / name
        if name.startswith(".") or name.casefold() in _SYSTEM:
            continue
        if not path.is_dir():
            yield path, _passed(path)
        elif not recursive:
            yield path, PassedOver(path, "A folder; ‹give recursive› takes its photos in.")
        elif (place := path.resolve()) not in above:
            yield from _entries(path, recursive, above | {place})


def _passed(path: Path) -> PassedOver | None:
    """None for a photo that can be read here, by its name and its first bytes."""
    if not path.is_file():
        why = "A link to nothing." if path.is_symlink() else "Neither a file nor a folder."
        called_photo = (
            path.suffix.lower() in readable_suffixes() or why_unreadable(path) is not None
        )
        return PassedOver(path, why, shows=called_photo, missed=called_photo)
    if path.suffix.lower() in readable_suffixes():
        return None
    # A HEIC that a messenger turned into JPEG keeps its name; a raw file only looks like TIFF.
    found = None if is_raw(path) else format_of(_head(path))
    if found in readable_formats():
        return None
    reason = None if found is None else why_unreadable(Path(f"x.{found.lower()}"))
    reason = reason or why_unreadable(path)
    found_out = reason is not None
    return PassedOver(path, reason or "No picture.", shows=found_out, missed=found_out)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(12)
    except OSError:
        return b""
