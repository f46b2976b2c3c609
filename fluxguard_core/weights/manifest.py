"""The list of weight files: one frozen entry a file, checked when it is read.

`models_manifest.json` lies beside the package's modules in a wheel and at the repository root in a
checkout. Nothing here touches the network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from .errors import ManifestError

Source = Literal["package", "download", "bring"]
ROLES = frozenset(
    [
        "transformer",
        "autoencoder",
        "text-encoder",
        "lora",
        "recogniser",
        "detector",
        "landmarks",
        "parser",
        "attributes",
        "attribute-editor",
        "attribute-judge",
        "cloak",
        "text-mask",
        "perceptual",
    ]
)
USES = frozenset(["protect", "report", "calibrate", "comfyui", "demo", "mask", "tests"])
EXTENSIONS = frozenset({".safetensors", ".pth", ".pt", ".onnx", ".json", ".txt"})
PACKAGE_ROOT = Path(__file__).resolve().parents[1]
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")


@dataclass(frozen=True)
class Entry:
    """One weight file. Unknown facts are None: a checksum is never made up.

    `folder` is relative to a models folder (ComfyUI's or one outside), `package_path` to the
    installed package. `commercial_use` None means that the terms leave it open; `consent` means
    that the licence has to be accepted before a download; `needs` lists companions by id. `used_by`
    names the commands that read the file ("comfyui": nodes do); empty, it is for a later version.
    `input` says how a recogniser is fed, as the note beside a model file does.
    """

    id: str
    role: str
    file: str
    folder: str
    url: str | None
    size: int | None
    sha256: str | None
    licence: str
    licence_url: str | None
    commercial_use: bool | None
    consent: bool
    used_by: tuple[str, ...]
    package_path: str | None = None
    needs: tuple[str, ...] = ()
    notes: str = ""
    input: dict[str, Any] | None = None

    @property
    def source(self) -> Source:
        """Where the file comes from: inside the package, a download, or the user's own copy."""
        if self.package_path is not None:
            return "package"
        return "download" if self.url is not None else "bring"

    @property
    def remedy(self) -> str:
        """One sentence: how to get this file."""
        if self.source == "download":
            return f"Run ‹run models download {self.id}›."
        if self.source == "package":
            return "Reinstall FluxGuard: this file is part of the package."
        return (
            f"FluxGuard may not fetch this file ({self.licence}): put your own copy into a models "
            f"folder as {self.folder}/{self.file}. All places: ‹run models where {self.id}›."
        )


@dataclass(frozen=True)
class Manifest:
    """All entries, in the file's order, ids unique."""

    path: Path
    entries: tuple[Entry, ...]

    def __getitem__(self, entry_id: str) -> Entry:
        for entry in self.entries:
            if entry.id == entry_id:
                return entry
        known = ", ".join(entry.id for entry in self.entries)
        raise ManifestError(f"There is no weight file called {entry_id!r}. Known: {known}.")

    def with_needs(self, ids: Iterable[str]) -> tuple[Entry, ...]:
        """The entries called for and their companions, each once, in the order of first mention."""
        found: dict[str, Entry] = {}
        waiting = list(ids)
        while waiting:
            entry = self[waiting.pop(0)]
            if entry.id not in found:
                found[entry.id] = entry
                waiting[:0] = entry.needs
        return tuple(found.values())


def manifest_path() -> Path:
    """The manifest's place: in the package (installed) or at the repository root (checkout)."""
    for folder in (PACKAGE_ROOT, PACKAGE_ROOT.parent):
        path = folder / "models_manifest.json"
        if path.is_file():
            return path
    raise ManifestError(
        f"models_manifest.json is neither in {PACKAGE_ROOT} nor beside it.", "Reinstall FluxGuard."
    )


def load_manifest(path: Path | None = None) -> Manifest:
    """Read and check a manifest; ManifestError names the entry and the field that is wrong."""
    return _load((path or manifest_path()).resolve())


def read_document(path: Path) -> dict[str, Any]:
    """The manifest's JSON document, only its outer shape checked."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(f"There is no manifest at {path}.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ManifestError(f"{path} is not a readable JSON manifest: {error}") from error
    if not isinstance(document, dict) or document.get("version") != 1:
        raise ManifestError(f'{path}: expected an object with "version": 1 at the top.')
    if not isinstance(document.get("files"), list):
        raise ManifestError(f'{path}: expected a list under "files".')
    return document


def _load(path: Path) -> Manifest:
    return _parse(path, path.stat().st_mtime_ns if path.exists() else 0)


@cache
def _parse(path: Path, _stamp: int) -> Manifest:
    entries = tuple(_entry(path, index, raw) for index, raw in enumerate(_rows(path)))
    ids = [entry.id for entry in entries]
    for repeated in sorted({i for i in ids if ids.count(i) > 1}):
        raise ManifestError(f"{path}: two entries are called {repeated!r}.")
    for entry in entries:
        for need in entry.needs:
            if need not in ids:
                raise ManifestError(f"{path}: {entry.id} needs {need!r}, which is not listed.")
    return Manifest(path, entries)


def _rows(path: Path) -> list[Any]:
    rows: list[Any] = read_document(path)["files"]
    return rows


def _entry(path: Path, index: int, raw: Any) -> Entry:
    where = f"{path}: entry {index}"
    if not isinstance(raw, dict):
        raise ManifestError(f"{where}: expected an object, got {type(raw).__name__}.")
    where = f"{where} ({raw.get('id', 'no id')})"
    names = {field.name for field in fields(Entry)}
    optional = {"package_path", "needs", "notes", "input"}
    missing, unknown = names - optional - raw.keys(), raw.keys() - names
    if missing or unknown:
        raise ManifestError(
            f"{where}: missing fields {sorted(missing)}, unknown fields {sorted(unknown)}."
        )
    for name, value in raw.items():
        _check_type(where, name, value)
    values = dict(raw)
    for name in ("used_by", "needs"):
        values[name] = tuple(values.get(name, ()))
    entry = Entry(**values)
    _check_meaning(where, entry)
    return entry


_TEXT = frozenset(["id", "role", "file", "folder", "licence", "notes"])
_TEXT_OR_NULL = frozenset(["url", "sha256", "licence_url", "package_path"])


def _check_type(where: str, name: str, value: Any) -> None:
    if name in _TEXT:
        sound, expected = isinstance(value, str), "a string"
    elif name in _TEXT_OR_NULL:
        sound, expected = value is None or isinstance(value, str), "a string or null"
    elif name == "size":
        sound, expected = value is None or (type(value) is int and value > 0), "bytes > 0 or null"
    elif name == "commercial_use":
        sound, expected = value is None or isinstance(value, bool), "true, false or null"
    elif name == "input":
        sound, expected = value is None or isinstance(value, dict), "an object or null"
    elif name == "consent":
        sound, expected = isinstance(value, bool), "true or false"
    else:
        sound = isinstance(value, list) and all(isinstance(item, str) for item in value)
        expected = "a list of strings"
    if not sound:
        raise ManifestError(f"{where}: {name} must be {expected}, got {value!r}.")


def _check_meaning(where: str, entry: Entry) -> None:
    checks = [
        (re.fullmatch(r"[a-z0-9][a-z0-9._-]*", entry.id), f"id {entry.id!r} is not a plain name"),
        (entry.role in ROLES, f"role {entry.role!r} is not one of {sorted(ROLES)}"),
        (safe_name(entry.file), f"file {entry.file!r} is not a plain file name"),
        (
            Path(entry.file).suffix in EXTENSIONS,
            f"file {entry.file!r} does not end with one of {sorted(EXTENSIONS)}",
        ),
        (safe_relative(entry.folder), f"folder {entry.folder!r} leaves the models folder"),
        (
            entry.package_path is None or safe_relative(entry.package_path),
            f"package_path {entry.package_path!r} leaves the package",
        ),
        (
            entry.package_path is None or entry.url is None,
            "a file of the package has no url",
        ),
        (
            entry.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", entry.sha256),
            f"sha256 {entry.sha256!r} is not 64 lower-case hexadecimal digits",
        ),
        (
            entry.url is None or (allowed_url(entry.url) and "@" not in urlsplit(entry.url).netloc),
            f"url {entry.url!r} is not an https address without a login",
        ),
        (entry.licence.strip(), "licence is empty"),
        (set(entry.used_by) <= USES, f"used_by {list(entry.used_by)} is not of {sorted(USES)}"),
        (
            entry.commercial_use is not False or entry.consent,
            "a file that forbids commercial use needs consent",
        ),
    ]
    for sound, problem in checks:
        if not sound:
            raise ManifestError(f"{where}: {problem}.")


def safe_name(name: str) -> bool:
    """Whether `name` is one plain path component on every system."""
    return bool(
        re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]*", name)
        and not name.endswith((".", " "))
        and not _RESERVED.fullmatch(name)
    )


def safe_relative(path: str) -> bool:
    """Whether `path` is a relative path of plain components with forward slashes."""
    return all(safe_name(part) for part in path.split("/"))


def allowed_url(url: str) -> bool:
    """https to any host, plain http to this machine only; nothing else."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        return False
    if not host or any(ord(c) <= 32 or ord(c) == 127 for c in url):
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)
