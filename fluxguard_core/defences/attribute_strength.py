"""How strong a change has to be: the smallest that turns the classifier, while recognisers still match."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Look = Callable[[Mapping[str, float]], tuple[Mapping[str, float], bool]]
"""Strength by attribute -> how sure a classifier is of each, and whether the recognisers still match."""

HALVINGS = 6
TURNED = 0.9
"""How sure the classifier has to be of the new label; one that is just turned leaves others undecided."""


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
        least: strength that a turned attribute has at least, where the match bears it; other classifiers turn later
            than the one that is asked. No answer is looked for without it.

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

        value, turned[name] = _bisected(name, arrived, values, look, strongest)
        if turned[name] and target != 0.5 and value < least:
            sure, matches = look({**values, name: least})
            value = least if matches and arrived(sure) else value
        values[name] = value
    _, matched = look(values)
    return Strengths(values, turned, matched)


def _bisected(
    name: str,
    arrived: Callable[[Mapping[str, float]], bool],
    others: Mapping[str, float],
    look: Look,
    strongest: float,
) -> tuple[float, bool]:
    sure, matches = look({**others, name: strongest})
    whole = arrived(sure)
    low, high = 0.0, strongest
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        sure, still = look({**others, name: middle})
        # Upwards as long as it has not turned; down again where that is more than recognition bears.
        up = still and not (arrived(sure) if whole else False)
        low, high = (middle, high) if up else (low, middle)
    if not whole:
        return (strongest, False) if matches else (low, False)
    sure, still = look({**others, name: high})
    if still and arrived(sure):
        return high, True
    return low, False
