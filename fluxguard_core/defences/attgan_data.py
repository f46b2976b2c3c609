"""Labelled faces for AttGAN: CelebA's list of attributes, and the pictures cut once into one file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import FluxGuardError
from .attgan_losses import LabelledBatch

LIST = "list_attr_celeba.txt"

Cut = Callable[[Path], Tensor | None]
"""A picture's file -> the face [3, S, S] in [0, 1] as AttGAN wants it, or None where there is none."""


@dataclass(frozen=True)
class AttributeList:
    """names of the attributes, and for each file its labels, 0 or 1 in their order."""

    names: tuple[str, ...]
    rows: dict[str, tuple[int, ...]]


def read_list(path: Path) -> AttributeList:
    """CelebA's format: a count, a line of names, then a line a file with 1 and -1.

    Raises:
        FluxGuardError: the file is missing or written otherwise; the line is told.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FluxGuardError(
            f"There is no readable list of attributes at {path}.",
            f"Put CelebA's {LIST}, or one written like it, beside the pictures.",
        ) from error
    if len(lines) < 3:
        raise FluxGuardError(
            f"{path} has {len(lines)} lines; expected a count, names, and a line a file."
        )
    names = tuple(lines[1].split())
    rows: dict[str, tuple[int, ...]] = {}
    for number, line in enumerate(lines[2:], 3):
        parts = line.split()
        if not parts:
            continue
        values = parts[-len(names) :]
        if len(parts) != len(names) + 1 or not set(values) <= {"1", "-1", "0"}:
            raise FluxGuardError(
                f"{path}, line {number}: expected a file and {len(names)} values of 1 or -1, got '{line[:80]}'."
            )
        rows[parts[0]] = tuple(int(value == "1") for value in values)
    return AttributeList(names, rows)


@dataclass(frozen=True, eq=False)
class LabelledFaces:
    """faces [N, 3, S, S] uint8 and labels [N, n] of 0 and 1."""

    faces: np.ndarray
    labels: Tensor
    left_out: int

    def draw(self, step: int, generator: torch.Generator, batch: int) -> LabelledBatch:
        """A batch, mirrored at random; what is wanted of each picture is another one's labels, as published."""
        rows = torch.randint(0, len(self.faces), (batch,), generator=generator)
        pictures = torch.from_numpy(self.faces[rows.numpy()]).float().div_(127.5).sub_(1)
        turned = torch.rand(batch, generator=generator) < 0.5
        pictures = torch.where(turned[:, None, None, None], pictures.flip(-1), pictures)
        labels = self.labels[rows]
        return LabelledBatch(pictures, labels, labels[torch.randperm(batch, generator=generator)])


def gather_faces(
    folder: Path,
    attributes: Sequence[str],
    size: int,
    cut: Cut,
    store: Path,
    *,
    list_file: Path | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> LabelledFaces:
    """Cut every listed picture of a folder once; a second run takes the faces from the store.

    Raises:
        FluxGuardError: an attribute that the list does not have, or no picture with a face.
    """
    known = read_list(list_file or folder / LIST)
    for name in attributes:
        if name not in known.names:
            raise FluxGuardError(
                f"The list has no attribute {name!r}.", f"It has: {', '.join(known.names)}."
            )
    columns = [known.names.index(name) for name in attributes]
    files = [name for name in known.rows if (folder / name).is_file()]
    faces, there = cut_once([folder / name for name in files], size, cut, store, log)
    kept = np.flatnonzero(there[:] == 1)
    if not len(kept):
        raise FluxGuardError(
            f"None of the {len(files)} listed pictures in {folder} shows a face that could be found."
        )
    labels = torch.tensor([[known.rows[files[r]][c] for c in columns] for r in kept]).float()
    return LabelledFaces(faces[kept], labels, len(files) - len(kept))


def cut_once(
    files: Sequence[Path], size: int, cut: Cut, store: Path, log: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Faces [N, 3, S, S] uint8 of the files, and for each 1 where there is one and 2 where there is none.

    They lie in `store`; a second run of as many files looks at nothing again.
    """
    faces, there = _stores(store, (len(files), 3, size, size))
    for row, file in enumerate(files):
        if there[row]:
            continue
        face = cut(file)
        if face is not None:
            faces[row] = (face * 255).round().byte().numpy()
        there[row] = 1 if face is not None else 2
        if (row + 1) % 500 == 0:
            log(f"{row + 1} of {len(files)} pictures read")
    return faces, there


def _stores(store: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    store.parent.mkdir(parents=True, exist_ok=True)
    maps = []
    for path, wanted in ((store, shape), (store.with_suffix(".done"), shape[:1])):
        expected = int(np.prod(wanted))
        whole = path.is_file() and path.stat().st_size == expected
        if not expected:
            maps.append(np.zeros(wanted, np.uint8))
            continue
        maps.append(np.memmap(path, np.uint8, "r+" if whole else "w+", shape=wanted))
    return maps[0], maps[1]
