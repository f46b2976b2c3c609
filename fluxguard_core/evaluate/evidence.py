"""From a measurement's figures to estimates with intervals over people, and to differences against ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .statistics import Interval, clustered_mean, clustered_wilson

RATES = ("match", "rank", "linked", "impersonates")
"""Beginnings of the names of what is a share; everything else is a mean."""
POOLED = "all"
FEWEST = 6
"""People from which a difference can be told from chance at 5 %: five of five on one side happen in 1 of 16 cases."""


@dataclass(frozen=True)
class Figure:
    """One number of the log."""

    protocol: str
    arm: str
    subject: str
    turn: str
    person: str
    judge: str
    role: str
    measure: str
    column: str
    value: float


@dataclass(frozen=True)
class Estimate:
    """A share or a mean over portraits, with a 95 % interval.

    Args:
        judge: a recogniser, ``look`` for the picture itself, or ``all`` for all held-out ones together.
        people, count: how many people, and figures.
    """

    protocol: str
    arm: str
    judge: str
    role: str
    measure: str
    column: str
    people: int
    count: int
    interval: Interval


@dataclass(frozen=True)
class Lead:
    """Ours minus another treatment on the same portraits, turns and judges; below 0 ours is matched less.

    A lead is claimed only where the whole interval lies below 0, and over six people or more.
    """

    protocol: str
    ours: str
    arm: str
    measure: str
    column: str
    people: int
    interval: Interval

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.people < FEWEST:
            return "too few people to say"
        if self.interval.high < 0:
            return "ours leads"
        return "ours is behind" if self.interval.low > 0 else "no clear difference"


def figures(lines: Mapping[str, Mapping[str, object]]) -> list[Figure]:
    """The figures of a log's lines by key; a later line about the same takes an earlier one's place."""
    out: dict[tuple[str, ...], Figure] = {}
    for name, line in lines.items():
        rows = line.get("rows")
        if not isinstance(rows, Mapping):
            continue
        protocol, arm, subject, turn = name.split("|")
        for each, value in rows.items():
            judge, role, measure, column = each.split("|")
            at = (protocol, arm, subject, turn.split(",")[0])
            out[(*at, each)] = Figure(
                *at, str(line["person"]), judge, role, measure, column, float(value)
            )
    return list(out.values())


def is_rate(measure: str) -> bool:
    """Whether a measure counts."""
    return measure.startswith(RATES)


def estimates(found: Sequence[Figure]) -> list[Estimate]:
    """One a treatment, judge, part, measure and column, and one for all held-out judges together."""
    groups: dict[tuple[str, ...], list[Figure]] = {}
    for f in found:
        groups.setdefault((f.protocol, f.arm, f.judge, f.role, f.measure, f.column), []).append(f)
        if f.role == "held out":
            pooled = (f.protocol, f.arm, POOLED, f.role, f.measure, f.column)
            groups.setdefault(pooled, []).append(f)
    out = []
    for (protocol, arm, judge, role, measure, column), group in groups.items():
        people = len({f.person for f in group})
        if people > 1:
            interval = _interval(measure, group)
            out.append(
                Estimate(protocol, arm, judge, role, measure, column, people, len(group), interval)
            )
    return out


def _interval(measure: str, group: Sequence[Figure]) -> Interval:
    values, people = [f.value for f in group], _clusters(group)
    if is_rate(measure) and all(value in (0.0, 1.0) for value in values):
        return clustered_wilson([value == 1.0 for value in values], people)
    return clustered_mean(values, people)


def _clusters(group: Sequence[Figure]) -> list[int]:
    numbers = {person: at for at, person in enumerate(dict.fromkeys(f.person for f in group))}
    return [numbers[f.person] for f in group]


def leads(found: Sequence[Figure], ours: str, measures: Sequence[str]) -> list[Lead]:
    """Ours against every other treatment, held-out judges together, on what both were asked."""
    own: dict[tuple[str, ...], float] = {}
    others: dict[tuple[str, str, str, str], list[tuple[Figure, tuple[str, ...]]]] = {}
    for f in found:
        if f.role != "held out" or f.measure not in measures:
            continue
        at = (f.protocol, f.subject, f.turn, f.judge, f.measure)
        if f.arm == ours:
            own[at] = f.value
        else:
            others.setdefault((f.protocol, f.arm, f.measure, f.column), []).append((f, at))
    out = []
    for (protocol, arm, measure, column), pairs in others.items():
        common = [(f, own[at] - f.value) for f, at in pairs if at in own]
        people = {f.person for f, _ in common}
        if len(people) > 1:
            interval = clustered_mean([gap for _, gap in common], _clusters([f for f, _ in common]))
            out.append(Lead(protocol, ours, arm, measure, column, len(people), interval))
    return out


def counted(found: Sequence[Figure]) -> dict[str, int]:
    """Portraits and people of a measurement."""
    return {
        "portraits": len({f.subject for f in found}),
        "people": len({f.person for f in found}),
    }
