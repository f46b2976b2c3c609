"""The sentence on top of a report: no more than was measured on recognisers that were not attacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .similarity import Recognition

Level = Literal["all", "some", "attacked only", "none", "unknown"]

HONESTY: tuple[str, ...] = (
    "This lowers the match rate of some recognisers. It guarantees nothing.",
    "Photos of you that are already online are not covered.",
    "Newer or adapted recognisers may undo it, and a published picture cannot be protected again.",
    "If it aims at a real person, that person may be found in your place.",
    "Several pictures protected towards one identity lead to each other.",
    "Recompression, cropping, upscaling and another edit weaken it.",
    "People, metadata, clothes and places can still identify you.",
    "It is not for evading lawful identity checks, nor for posing as somebody else.",
    "Some recogniser weights (insightface's and the four classic ones) and FLUX.1-dev are licensed "
    "for non-commercial or academic use only.",
)
"""What every report says, whatever was measured."""


@dataclass(frozen=True)
class Tally:
    """Recognisers that matched the unprotected edit (`matched`), and how many of them lost it.

    measured: those with a known threshold; remaining: those that match the protected picture.
    """

    lost: int
    matched: int
    measured: int
    remaining: int

    def __str__(self) -> str:
        return f"{self.lost} of {self.matched}"


@dataclass(frozen=True)
class Verdict:
    """level for colour, headline and detail for people, tallies for programs."""

    level: Level
    headline: str
    detail: str
    attacked: Tally
    held_out: Tally


def state(result: Recognition) -> tuple[Literal["lost", "kept", "open"], str]:
    """What became of one recogniser's match: a kind for colour, and words."""
    if result.withheld is None:
        return "open", "no threshold known"
    if result.withheld:
        return "lost", "no longer matches"
    if result.matches(result.protected):
        return "kept", "still matches"
    return "open", "no match even before"


def tally(results: Sequence[Recognition]) -> Tally:
    """Count over recognisers whose threshold is known."""
    known = [result for result in results if result.threshold is not None]
    return Tally(
        lost=sum(result.withheld is True for result in known),
        matched=sum(result.matches(result.edited) is True for result in known),
        measured=len(known),
        remaining=sum(result.matches(result.protected) is True for result in known),
    )


def _level(attacked: Tally, held_out: Tally) -> Level:
    lost, matched = attacked.lost + held_out.lost, attacked.matched + held_out.matched
    if matched == 0:
        return "unknown"
    if lost == 0:
        return "none"
    if held_out.lost == 0:
        return "attacked only"
    return "some" if attacked.remaining + held_out.remaining else "all"


def _headline(level: Level, attacked: Tally, held_out: Tally, unknown: int) -> str:
    if level == "unknown":
        if unknown + attacked.measured + held_out.measured == 0:
            return "Nothing was measured."
        if attacked.measured + held_out.measured == 0:
            return "No recogniser here has a threshold, so nothing can be said about matches."
        return "Nothing is shown: no recogniser matched even the unprotected edit."
    if level == "none":
        return "Not protected: every recogniser that matched the edit still matches."
    if level == "all":
        which = "with a known threshold" if unknown else "measured here"
        return f"No recogniser {which} still matches this picture to the original."
    if level == "some":
        return "Some recognisers measured here still match this picture to the original."
    whole = attacked.lost == attacked.matched
    who = "The attacked recognisers" if whole else "Some of the attacked recognisers"
    if held_out.matched == 0:
        return f"{who} lose the match; whether others would is not known."
    return f"{who} lose the match; those that took no part keep it."


def _part(name: str, count: Tally) -> str:
    if count.measured == 0:
        return f"{name}: none was measured."
    if count.matched == 0:
        return f"{name}: none matched even the unprotected edit."
    return f"{name}: {count} lost the match."


def _shared(results: Sequence[Recognition]) -> str:
    judged = [
        (after.label, result.matches(after.protected))
        for result in results
        if result.withheld
        for after in result.robustness
    ]
    if not judged:
        return ""
    back = [label for label, matches in judged if matches]
    if not back:
        return (
            f"All {len(judged)} checks after sharing (recompression, scaling, blur ...) hold too."
        )
    worst = max(dict.fromkeys(back), key=back.count)
    return f"After sharing, {len(back)} of {len(judged)} checks match again, most after {worst}."


def judge(results: Sequence[Recognition]) -> Verdict:
    """The verdict on one picture from all recognisers' results."""
    attacked = tally([result for result in results if result.attacked])
    held_out = tally([result for result in results if not result.attacked])
    unknown = len(results) - attacked.measured - held_out.measured
    level = _level(attacked, held_out)
    rates = sorted({result.far for result in results if result.far is not None})
    parts = [_part("Attacked", attacked), _part("Held out", held_out)]
    if rates:
        rate = " and ".join(f"{100 * value:g} %" for value in rates)
        parts.append(f"Judged at a false accept rate of {rate}.")
    parts.append(_shared(results))
    return Verdict(
        level,
        _headline(level, attacked, held_out, unknown),
        " ".join(part for part in parts if part),
        attacked,
        held_out,
    )
