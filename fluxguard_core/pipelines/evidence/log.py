"""The log of a measurement: a first line that says what all lines share, then a line for each thing done."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import FluxGuardError

FORMAT = 1
Rows = dict[str, float]
"""Figures by ``JUDGE|ROLE|MEASURE|COLUMN``."""


def key(*parts: str) -> str:
    """A figure's or a line's name."""
    return "|".join(parts)


class Log:
    """Lines by key, appended as they come; a last line that a kill cut short is done again."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Read what is there.

        Raises:
            FluxGuardError: a log of other settings, or no log at all. Names may be added to what is named.
        """
        self.path = path
        self.header = json.loads(json.dumps({"format": FORMAT, **header}))
        self._lines: dict[str, dict[str, Any]] = {}
        if path.is_file():
            self._read()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_text(self.header), encoding="utf-8")

    def _read(self) -> None:
        header, lines = read_log(self.path)
        names = {*header, *self.header}
        other = sorted(n for n in names if not _agree(header.get(n), self.header.get(n)))
        if other:
            raise FluxGuardError(
                f"{self.path} holds a run of other {', '.join(other)}, which may not be counted with this one.",
                "Choose another ‹give output›.",
            )
        self.header = {
            name: {**header[name], **value} if isinstance(value, dict) else value
            for name, value in self.header.items()
        }
        self._lines = lines
        whole = "".join([_text(self.header), *(_text({"key": k, **v}) for k, v in lines.items())])
        if self.path.read_text(encoding="utf-8") != whole:
            self.path.write_text(whole, encoding="utf-8")

    def __contains__(self, name: str) -> bool:
        return name in self._lines

    def get(self, name: str) -> dict[str, Any]:
        """A line without its key."""
        return self._lines[name]

    def add(self, name: str, line: Mapping[str, Any]) -> None:
        """Append a line; figures keep five decimals."""
        kept = json.loads(json.dumps(_short(dict(line))))
        self._lines[name] = kept
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(_text({"key": name, **kept}))

    @property
    def lines(self) -> Mapping[str, dict[str, Any]]:
        """All lines by key."""
        return self._lines


def read_log(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Header, and lines by key, also of a log that gzip has packed; FluxGuardError for another file."""
    packed = path.suffix == ".gz"
    data = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    text = data.decode("utf-8").splitlines()
    found = []
    for number, line in enumerate(text, 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number == len(text) and number > 1:
                break
            raise _no_log(path, error) from error
    try:
        header, *rest = found
        if header["format"] != FORMAT:
            raise ValueError(f"format {header['format']}")
        return header, {line.pop("key"): line for line in rest}
    except (ValueError, KeyError, TypeError) as error:
        raise _no_log(path, error) from error


def _agree(old: Any, new: Any) -> bool:
    """Equal; of what is named (treatments), only what both have must be, so that some may be added."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(old[name] == new[name] for name in old.keys() & new.keys())
    return bool(old == new)


def _no_log(path: Path, error: Exception) -> FluxGuardError:
    return FluxGuardError(
        f"{path} is no log of a measurement ({error}).", "Choose another ‹give output›."
    )


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(part) for name, part in value.items()}
    return round(value, 5) if isinstance(value, float) else value


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, separators=(",", ":")) + "\n"
