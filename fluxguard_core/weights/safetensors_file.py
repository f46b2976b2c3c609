"""Safetensors files: the table of contents without the tensors, and the tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import ModelFileError

_LARGEST_HEADER = 100_000_000  # what the format allows
_FOREIGN = (
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    RuntimeError,
    OverflowError,
)


@dataclass(frozen=True)
class Contents:
    """What a file holds, by name: shapes and number formats (F32, BF16, F8_E4M3 ...), and its notes."""

    shapes: dict[str, tuple[int, ...]]
    formats: dict[str, str]
    notes: dict[str, str]


def read_contents(file: Path, remedy: str = "") -> Contents:
    """The table of contents; nothing else is read.

    Raises:
        ModelFileError: the file is truncated, damaged, or no safetensors file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        fits = length <= min(size - 8, _LARGEST_HEADER)
        header = stream.read(length) if fits else b""
    if not header:
        raise ModelFileError(
            f"{file} is truncated: its header should take {length:,} bytes, the file has {size:,}.",
            remedy,
        )
    try:
        contents, needed = _parsed(json.loads(header))
    except _FOREIGN:  # a RecursionError, too, is a RuntimeError
        raise ModelFileError(
            f"{file} is not a safetensors file: unreadable header.", remedy
        ) from None
    if 8 + length + needed != size:
        state = "truncated" if 8 + length + needed > size else "damaged"
        raise ModelFileError(
            f"{file} is {state}: its tensors need {8 + length + needed:,} bytes, the file has "
            f"{size:,}.",
            remedy,
        )
    return contents


def _parsed(table: Any) -> tuple[Contents, int]:
    """The contents, and the bytes that the tensors take."""
    notes = table.pop("__metadata__", None) or {}
    shapes = {name: tuple(int(side) for side in row["shape"]) for name, row in table.items()}
    formats = {name: str(row["dtype"]) for name, row in table.items()}
    needed = max((int(row["data_offsets"][1]) for row in table.values()), default=0)
    return Contents(shapes, formats, {str(k): str(v) for k, v in notes.items()}), needed


def read_safetensors(file: Path, remedy: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name and the file's notes; ModelFileError as in `read_contents`."""
    read_contents(file, remedy)
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return tensors, dict(opened.metadata() or {})
    except (SafetensorError, OSError, MemoryError, *_FOREIGN) as error:
        raise ModelFileError(f"{file} is not a sound safetensors file: {error}.", remedy) from error
