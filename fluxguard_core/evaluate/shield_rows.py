"""Rows of the shields' bench: cells by person, arm and budget; means and paired differences over people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..errors import FluxGuardError
from .statistics import Interval, bootstrap_mean, paired, ratio_of_means

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CLEAN = "unprotected"


@dataclass(frozen=True)
class Cell:
    """One attacker on one person's picture, shielded by one arm at one budget.

    Args:
        shared: what happened to the picture before the attack.
        psnr, ssim: of the edit of the shielded picture against the edit of the original; lower is a stronger shield.
        features: mean squared distance of the two edits in the autoencoder's own features; higher is stronger.
        success: whether the attribute that was asked for shows in the edit of the shielded picture.
        visible: PSNR of the shielded picture against the original.
    """

    person: int
    arm: str
    budget: int
    attacker: str
    shared: str
    psnr: float
    ssim: float
    features: float
    success: bool
    visible: float


@dataclass(frozen=True)
class TrainerCell:
    """A LoRA trained on one person's pictures, shielded by one arm at one budget.

    Args:
        found: share of its pictures in which the detector finds a face (FDR).
        match: share of found faces that recognisers take for the person; lower is a stronger shield.
        similarity: mean cosine of found faces to the person (ISM); None without a face.
        visible: PSNR of the shielded pictures against the originals.
    """

    person: int
    arm: str
    budget: int
    trainer: str
    found: float
    match: float
    similarity: float | None
    visible: float


Row = TypeVar("Row")


def check_settings(folder: Path, settings: Mapping[str, object]) -> None:
    """Keep what a folder's rows were made with; FluxGuardError where it holds those of other settings."""
    file = folder / "settings.json"
    if not file.is_file():
        file.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    elif json.loads(file.read_text(encoding="utf-8")) != settings:
        raise FluxGuardError(
            f"{folder} holds a run of other settings: {file.read_text(encoding='utf-8').strip()}.",
            "Choose another ‹give output›.",
        )


def append(path: Path, cells: Iterable[DataclassInstance]) -> None:
    """Add cells to the log, so that a stopped run goes on where it was."""
    with path.open("a", encoding="utf-8") as file:
        for cell in cells:
            file.write(json.dumps(asdict(cell)) + "\n")


def read(path: Path, kind: type[Row]) -> list[Row]:
    """The log's cells; none where there is no log yet."""
    if not path.is_file():
        return []
    return [kind(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def table(cells: Sequence[Cell], baseline: str) -> str:
    """A Markdown table by attacker, sharing, budget and arm; paired differences of SSIM to ``baseline``."""
    lines = [
        "| attacker | shared | budget | arm | people | PSNR of edits, dB | SSIM of edits | features | asked for shows "
        f"| SSIM against {baseline} | visible, dB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    keys = dict.fromkeys((c.attacker, c.shared, c.budget, c.arm) for c in cells)
    for attacker, shared, budget, arm in keys:
        group = _of(cells, attacker, shared, budget, arm)
        other = {c.person: c.ssim for c in _of(cells, attacker, shared, budget, baseline)}
        both = [(c.ssim, other[c.person]) for c in group if c.person in other]
        against = "" if arm == baseline or len(both) < 2 else told_difference(both)
        shows = sum(c.success for c in group)
        parts = [
            attacker,
            shared,
            str(budget),
            arm,
            str(len(group)),
            told_mean([c.psnr for c in group], 1),
            told_mean([c.ssim for c in group], 3),
            told_mean([c.features for c in group], 3),
            f"{shows} of {len(group)}",
            against,
            told_mean([min(c.visible, 99.0) for c in group], 1),
        ]
        lines.append("| " + " | ".join(parts) + " |")
    return "\n".join(lines)


def page_table(cells: Sequence[Cell], baseline: str, editor: str, budget: int) -> str:
    """One editor at one budget as a Markdown table for a page: an arm a row, SSIM by attacker.

    Args:
        editor: what the names of its attackers begin with; "" for the one that the shields ask.
    """
    of_it = [
        c
        for c in cells
        if c.budget == budget
        and c.shared == "as it is"
        and c.attacker.startswith(editor)
        and (editor or "," not in c.attacker)
    ]
    kinds = list(dict.fromkeys(c.attacker for c in of_it))
    heads = [f"{kind.removeprefix(editor)}, SSIM" for kind in kinds]
    lines = [
        f"| arm | people | {' | '.join(heads)} | SSIM against {baseline} | PSNR against {baseline}, dB "
        "| asked for shows | visible, dB |",
        "|---" * (6 + len(kinds)) + "|",
    ]
    base = _by_person([c for c in of_it if c.arm == baseline])
    for arm in dict.fromkeys(c.arm for c in of_it):
        group = [c for c in of_it if c.arm == arm]
        own = _by_person(group)
        both = [(value, base[person]) for person, value in own.items() if person in base]
        told = ["", ""]
        if arm not in (baseline, CLEAN) and len(both) > 1:
            pairs = [[(one[i], other[i]) for one, other in both] for i in range(2)]
            told = [told_difference(pairs[0], 4), told_difference(pairs[1], 2)]
        parts = [
            arm,
            str(len(own)),
            *(told_mean([c.ssim for c in group if c.attacker == kind], 3) for kind in kinds),
            *told,
            f"{sum(c.success for c in group)} of {len(group)}",
            ""
            if arm == CLEAN
            else told_mean(list({c.person: c.visible for c in group}.values()), 1),
        ]
        lines.append("| " + " | ".join(parts) + " |")
    return "\n".join(lines)


def _by_person(cells: Sequence[Cell]) -> dict[int, tuple[float, float]]:
    """Mean SSIM and PSNR over attackers."""
    found: dict[int, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.person, []).append(cell)
    return {
        person: (
            sum(c.ssim for c in own) / len(own),
            sum(c.psnr for c in own) / len(own),
        )
        for person, own in found.items()
    }


def trainer_table(cells: Sequence[TrainerCell]) -> str:
    """A Markdown table by trainer, budget and arm; matches also as a share of those of unprotected pictures."""
    lines = [
        "| trainer | budget | arm | people | faces found | match the person | of unprotected's matches | cosine "
        "| visible, dB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for trainer, budget, arm in dict.fromkeys((c.trainer, c.budget, c.arm) for c in cells):
        every = [c for c in cells if (c.trainer, c.budget) == (trainer, budget)]
        group = [c for c in every if c.arm == arm]
        clean = {c.person: c.match for c in every if c.arm == CLEAN}
        both = [(c.match, clean[c.person]) for c in group if c.person in clean]
        parts = [
            trainer,
            str(budget),
            arm,
            str(len(group)),
            told_mean([c.found for c in group], 2),
            told_mean([c.match for c in group], 2),
            ""
            if arm == CLEAN or len(both) < 2
            else _told(ratio_of_means([a for a, _ in both], [b for _, b in both]), 2),
            told_mean([c.similarity for c in group if c.similarity is not None], 2),
            "" if arm == CLEAN else told_mean([c.visible for c in group], 1),
        ]
        lines.append("| " + " | ".join(parts) + " |")
    return "\n".join(lines)


def _of(cells: Sequence[Cell], attacker: str, shared: str, budget: int, arm: str) -> list[Cell]:
    wanted = (attacker, shared, budget, arm)
    return [c for c in cells if (c.attacker, c.shared, c.budget, c.arm) == wanted]


def told_mean(values: Sequence[float], digits: int) -> str:
    """A mean with its interval; one value as it is, and nothing for none."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else ""
    return _told(bootstrap_mean(values), digits)


def told_difference(both: Sequence[tuple[float, float]], digits: int = 3) -> str:
    """The mean of paired differences with its interval."""
    first, second = zip(*both, strict=True)
    return _told(paired(first, second).difference, digits)


def _told(interval: Interval, digits: int) -> str:
    value, low, high = (f"{x:.{digits}f}" for x in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"
