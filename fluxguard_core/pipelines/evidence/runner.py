"""One runner for every protocol: treatments x portraits in their turns, judged; what the log has is not done again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import FluxGuardError
from ...pictures.files import read_picture, write_png
from .bench import Arm, Bench, Case, Made
from .log import Log, Rows, key

OURS, UNPROTECTED = "default", "unprotected"


@dataclass(frozen=True, eq=False)
class Run:
    """A bench with its treatments and its log; pictures lie beside the log, so that protocols share them."""

    bench: Bench
    arms: dict[str, Arm]
    log: Log
    told: Callable[[str], None] = print

    def made(self, arm: str, case: Case) -> Made:
        """A treated portrait, from disk where it was made before."""
        name = key("made", arm, case.subject.name, case.fold.name)
        file = (
            self.log.path.parent
            / "pictures"
            / f"{hashlib.sha256(name.encode()).hexdigest()[:20]}.png"
        )
        if name in self.log and file.is_file():
            line = self.log.get(name)
            return _read(file, line["seconds"], line["evaluations"])
        made = self.arms[arm].make(case)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_png(file, torch.cat([made.picture, made.reference], 3))
        self.log.add(name, {"seconds": made.seconds, "evaluations": made.evaluations})
        return _read(file, made.seconds, made.evaluations)


def _read(file: Path, seconds: float, evaluations: int) -> Made:
    picture, reference = read_picture(file).rgb.chunk(2, dim=3)
    return Made(picture, reference, seconds, evaluations)


@dataclass(frozen=True, eq=False)
class Protocol:
    """What is asked about treated portraits.

    Args:
        judge: one treated portrait -> figures.
        after: once all portraits are judged, what can only be asked of all of a treatment together: lines as
            (key, person, figures).
    """

    name: str
    title: str
    judge: Callable[[Run, str, Case], Rows]
    after: Callable[[Run, str], Iterable[tuple[str, str, Rows]]] | None = None


def run_protocol(run: Run, protocol: Protocol, arms: Sequence[str]) -> None:
    """Judge every treatment of every portrait; the unprotected one comes first."""
    unknown = [name for name in arms if name not in run.arms]
    if unknown:
        raise FluxGuardError(f"Expected treatments out of {', '.join(run.arms)}, got {unknown[0]}.")
    ordered = [UNPROTECTED, *(name for name in arms if name != UNPROTECTED)]
    cases = run.bench.cases()
    for number, case in enumerate(cases, 1):
        fresh = 0
        for arm in ordered:
            name = line_key(protocol.name, arm, case)
            if name not in run.log:
                rows = protocol.judge(run, arm, case)
                run.log.add(name, {"person": case.subject.person, "rows": rows})
                fresh += 1
        if fresh:
            run.told(f"{protocol.name}: {number} of {len(cases)} portraits in their turns")
    if protocol.after is not None:
        for arm in ordered:
            for name, person, rows in protocol.after(run, arm):
                run.log.add(name, {"person": person, "rows": rows})


def line_key(protocol: str, arm: str, case: Case) -> str:
    """The log's name of what a protocol says of one treated portrait."""
    return key(protocol, arm, case.subject.name, case.fold.name)


def output_log(folder: Path) -> Path:
    """Where a folder's log lies."""
    return folder / "evidence.jsonl"
