"""Verification: does a recogniser that took no part still match the picture to another photo of the person?

Dodging asks that of the person, impersonation of the target's other photo (recognition by pairs, at false accept
rates calibrated on this gallery). Every figure stands beside the same one of the unprotected picture.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ...evaluate.quality import psnr, ssim
from ...recognition.encoder import FaceEncoder
from .bench import Case, Made, embedding
from .log import Rows, key
from .match import COLUMNS, Column, closeness, matched
from .runner import OURS, UNPROTECTED, Run

RATES = {"match": 1e-2, "match.001": 1e-3}


def judge_verify(run: Run, arm: str, case: Case) -> Rows:
    """What all recognisers say of a treated portrait, at its own strength and at our closeness."""
    made = run.made(arm, case)
    rows: Rows = {
        key("look", "", "seconds", "own"): made.seconds,
        key("look", "", "evaluations", "own"): float(made.evaluations),
    }
    for column, picture in _columns(run, arm, case, made):
        rows |= _closeness(picture, made, case, column)
        for encoder, role in judges(case):
            rows |= _verified(run, encoder, role, picture, case, column)
    return rows


def judges(case: Case) -> Iterator[tuple[FaceEncoder, str]]:
    """Recognisers with their part in this turn: held-out ones first."""
    yield from ((encoder, "held out") for encoder in case.fold.held_out)
    yield from ((encoder, "attacked") for encoder in case.fold.attacked)


def _columns(run: Run, arm: str, case: Case, made: Made) -> Iterator[tuple[Column, Tensor]]:
    yield "own", made.picture
    if arm in (OURS, UNPROTECTED) or OURS not in run.arms:
        return
    ours = run.made(OURS, case)
    for column in COLUMNS[1:]:
        yield column, matched(made, ours, case.subject.points, column)


def _verified(
    run: Run, encoder: FaceEncoder, role: str, picture: Tensor, case: Case, column: Column
) -> Rows:
    vector = embedding(encoder, picture, case.subject.points)
    person = float((run.bench.gallery.of(case.subject.person, encoder.name) @ vector).mean())
    target = float((run.bench.gallery.of(case.target.person, encoder.name) @ vector).mean())
    figures = {"cos": person, "cos.target": target}
    for name, rate in RATES.items():
        if any(abs(t.far - rate) < 1e-9 for t in encoder.thresholds):
            figures[name] = float(person > encoder.threshold(rate))
    figures["impersonates"] = float(target > encoder.threshold())
    return {key(encoder.name, role, name, column): value for name, value in figures.items()}


def _closeness(picture: Tensor, made: Made, case: Case, column: Column) -> Rows:
    look = closeness(picture, made.reference, case.subject.points)
    figures = {
        "ssim": ssim(picture, made.reference),
        "psnr": min(100.0, psnr(picture, made.reference)),
        "haarpsi": look.haarpsi,
        "shift": look.shift,
    }
    return {key("look", "", name, column): value for name, value in figures.items()}
