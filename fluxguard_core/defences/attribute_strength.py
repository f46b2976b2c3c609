"""How strong a change has to be: the smallest that turns the classifier, while recognisers still match."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Look = Callable[[Mapping[str, float]], tuple[Mapping[str, float], bool]]
"""Strength by attribute -> how sure a classifier is of each, and whether the recognisers still match."""

HALVINGS = 6
ENDS = (0.4, 0.6, 0.8, 1.0)
"""Shares of the strongest change that are tried as upper ends."""
TURNED = 0.9
"""How sure the classifier has to be of the new label; one that is just turned leaves others undecided."""


BEYOND = 1.25
"""How far beyond the strength that turns those that are asked, where others are to turn too."""
SUREST = 0.999
"""More than this counts as this: a classifier that is never in doubt would outvote all others."""


def agreed(readings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What several classifiers say together: the mean of their log odds, by the first one's names.

    One that does not know a name has no say in it.
    """
    told: dict[str, float] = {}
    for name in readings[0]:
        sures = [min(max(r[name], 1 - SUREST), SUREST) for r in readings if name in r]
        odds = sum(math.log(sure / (1 - sure)) for sure in sures) / len(sures)
        told[name] = 1 / (1 + math.exp(-odds))
    return told


@dataclass(frozen=True)
class Strengths:
    """What was found.

    Args:
        values: strength by attribute.
        turned: by attribute whether the classifier has turned.
        matched: whether the recognisers still match at these strengths.
    """

    values: Mapping[str, float]
    turned: Mapping[str, bool]
    matched: bool


def reached(sure: float, target: float, confidence: float = TURNED) -> bool:
    """Whether a classifier that is so sure has arrived at a target, 0 or 1."""
    return sure >= confidence if target == 1 else sure <= 1 - confidence


def find_strengths(
    targets: Mapping[str, float],
    start: Mapping[str, float],
    look: Look,
    *,
    strongest: float,
    confidence: float = TURNED,
    held: Mapping[str, float] | None = None,
    least: float = 0.0,
) -> Strengths:
    """One attribute after another, by bisection, with those before it as they were found.

    Args:
        targets: 0 or 1, or 0.5 for no answer.
        start: how sure the classifier is before any change.
        strongest: the upper end.
        confidence: how sure of a 0 or 1 it has to be.
        held: strengths that were found earlier and stay.
        least: strength that a turned attribute has at least, where the match bears it, and a quarter more than what
            turns it; other classifiers turn later than those that are asked. 0 for the smallest. No answer is looked
            for without it.

    An attribute that does not turn at `strongest`, or whose turn costs the match, keeps the largest strength that
    still matches.
    """
    values: dict[str, float] = dict(held or {})
    turned: dict[str, bool] = {}
    for name, target in targets.items():

        def arrived(sure: Mapping[str, float], name: str = name, target: float = target) -> bool:
            if target == 0.5:
                return (sure[name] > 0.5) != (start[name] > 0.5)
            return reached(sure[name], target, confidence)

        value, turned[name] = _found(name, target, arrived, values, look, strongest)
        if turned[name] and target != 0.5 and least:
            for more in (min(strongest, max(least, BEYOND * value)), least):
                sure, matches = look({**values, name: more})
                if more > value and matches and arrived(sure):
                    value = more
                    break
        values[name] = value
    _, matched = look(values)
    return Strengths(values, turned, matched)


def _found(
    name: str,
    target: float,
    arrived: Callable[[Mapping[str, float]], bool],
    others: Mapping[str, float],
    look: Look,
    strongest: float,
) -> tuple[float, bool]:
    """A strength and whether it turns the attribute.

    Upper ends are tried from below, for what is far too strong may look like something else again.
    """
    tried: list[tuple[float, float]] = []
    before = 0.0
    for end in (share * strongest for share in ENDS):
        sure, matches = look({**others, name: end})
        if not matches:
            return _bisected(name, arrived, others, look, (before, end))
        if arrived(sure):
            value, turned = _bisected(name, arrived, others, look, (0.0, end))
            return (value, True) if turned else (end, True)
        tried.append((abs(sure[name] - target), -end))
        before = end
    return -min(tried)[1], False


def _bisected(
    name: str,
    arrived: Callable[[Mapping[str, float]], bool],
    others: Mapping[str, float],
    look: Look,
    between: tuple[float, float],
) -> tuple[float, bool]:
    """The smallest strength that turns, or the largest that still matches."""
    low, high = between
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        sure, still = look({**others, name: middle})
        # Upwards as long as it has not turned; down again where that is more than recognition bears.
        low, high = (middle, high) if still and not arrived(sure) else (low, middle)
    sure, still = look({**others, name: high})
    return (high, True) if still and arrived(sure) else (low, False)
