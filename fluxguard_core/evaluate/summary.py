"""Many pictures, one line a recogniser: shares and means with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import FluxGuardError
from .similarity import Recognition
from .statistics import Interval, Paired, bootstrap_mean, paired, paired_shares, wilson

Results = Sequence[Sequence[Recognition]]
"""For each picture, one result a recogniser (`measure`)."""


@dataclass(frozen=True)
class Summary:
    """One recogniser over many pictures.

    matched: share of unprotected edits that it matches to the original; withheld: share of those
    that it no longer matches after protection (None if it matched none); drop: mean loss of cosine.
    """

    name: str
    attacked: bool
    pictures: int
    matched: Interval
    withheld: Interval | None
    drop: Interval


@dataclass(frozen=True)
class Comparison:
    """One recogniser, two treatments of the same pictures.

    cosine: first minus second (below 0: the first protects more); shares: p-value of McNemar's
    exact test on which pictures still match.
    """

    name: str
    attacked: bool
    cosine: Paired
    shares: float


def _by_recogniser(results: Results) -> dict[str, list[Recognition]]:
    table: dict[str, list[Recognition]] = {}
    for picture in results:
        for result in picture:
            table.setdefault(result.name, []).append(result)
    lengths = {len(rows) for rows in table.values()}
    if not table or lengths != {len(results)}:
        raise FluxGuardError(
            "Every picture needs one result of every recogniser.", "Measure them with one ensemble."
        )
    return table


def _matches(name: str, rows: Sequence[Recognition]) -> list[tuple[bool, bool]]:
    """(matched before, matched after) for each picture."""
    pairs = [(row.matches(row.edited), row.matches(row.protected)) for row in rows]
    known = [(before, after) for before, after in pairs if before is not None and after is not None]
    if len(known) != len(rows):
        raise FluxGuardError(
            f"{name} has no threshold, so matches cannot be counted.",
            "Measure one with ‹run calibrate FILE --faces DIR›.",
        )
    return known


def summarise(results: Results, confidence: float = 0.95, *, seed: int = 0) -> tuple[Summary, ...]:
    """One summary a recogniser, in the order of the first picture; needs two pictures at least."""
    summaries = []
    for name, rows in _by_recogniser(results).items():
        kept = [after for before, after in _matches(name, rows) if before]
        drops = [row.edited - row.protected for row in rows]
        summaries.append(
            Summary(
                name,
                rows[0].attacked,
                len(rows),
                wilson(len(kept), len(rows), confidence),
                wilson(kept.count(False), len(kept), confidence) if kept else None,
                bootstrap_mean(drops, confidence, seed=seed),
            )
        )
    return tuple(summaries)


def compare(
    first: Results, second: Results, confidence: float = 0.95, *, seed: int = 0
) -> tuple[Comparison, ...]:
    """Two treatments of the same pictures in the same order, for each recogniser."""
    left, right = _by_recogniser(first), _by_recogniser(second)
    if list(left) != list(right) or len(first) != len(second):
        raise FluxGuardError(
            "The two treatments differ in pictures or recognisers.", "Pair them up."
        )
    return tuple(
        Comparison(
            name,
            rows[0].attacked,
            paired(
                [row.protected for row in rows],
                [row.protected for row in right[name]],
                confidence,
                seed=seed,
            ),
            paired_shares(
                [after for _, after in _matches(name, rows)],
                [after for _, after in _matches(name, right[name])],
            ),
        )
        for name, rows in left.items()
    )
