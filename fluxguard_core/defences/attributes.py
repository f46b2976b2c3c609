"""What a face reveals, by CelebA's names: which of it is to change, and into what.

AttFaceMasker hides attributes while recognition goes on working; here it is decided what changes, from what a
classifier sees. Nothing here knows how a picture is edited.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import FluxGuardError

CELEBA: tuple[str, ...] = (
    *("5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs"),
    *("Big_Lips", "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair"),
    *("Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair"),
    *("Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache"),
    *("Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline"),
    *("Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings"),
    *("Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young"),
)
"""The forty attributes of CelebA, in the order of its list."""

PUBLISHED: tuple[str, ...] = (
    *("Bald", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Bushy_Eyebrows", "Eyeglasses"),
    *("Male", "Mouth_Slightly_Open", "Mustache", "No_Beard", "Pale_Skin", "Young"),
)
"""The thirteen that AttGAN's public checkpoints edit, in their order."""

HAIR_COLOURS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
# What cannot be seen together: one that is put on takes the others off.
_EXCLUSIVE: tuple[tuple[str, ...], ...] = (
    HAIR_COLOURS,
    ("Straight_Hair", "Wavy_Hair"),
    *(("Bald", other) for other in (*HAIR_COLOURS, "Bangs", "Straight_Hair", "Wavy_Hair")),
    ("Receding_Hairline", "Bangs"),
    *(("No_Beard", other) for other in ("5_o_Clock_Shadow", "Goatee", "Mustache", "Sideburns")),
)

Mode = Literal["flip", "set", "neutralise", "random", "auto"]
MODES: tuple[Mode, ...] = get_args(Mode)

Seen = Mapping[str, float]
"""Attribute -> how sure a classifier is that it is there, in [0, 1]."""


@dataclass(frozen=True)
class Wanted:
    """What a picture is to show.

    Args:
        targets: by name the wanted label, 0 or 1; 0.5 where a classifier is to be left without an answer.
        asked: the names that were asked for; the others follow from what cannot be seen together.
    """

    targets: Mapping[str, float]
    asked: tuple[str, ...]

    @property
    def led(self) -> dict[str, str]:
        """What follows, by name, and the asked name that takes it off."""
        following = [name for name in self.targets if name not in self.asked]
        return {
            name: next(leader for leader in self.asked if leader in rivals(name))
            for name in following
        }


def check_names(names: Sequence[str], known: Sequence[str]) -> None:
    """FluxGuardError for a name that an editor does not have."""
    for name in names:
        if name not in known:
            raise FluxGuardError(
                f"There is no attribute {name!r} here.", f"Choose from {', '.join(known)}."
            )


def rivals(name: str) -> Iterator[str]:
    """What cannot be seen together with an attribute."""
    for group in _EXCLUSIVE:
        if name in group:
            yield from (other for other in group if other != name)


def resolved(asked: Mapping[str, float], seen: Seen) -> Wanted:
    """The wishes and what follows from them: what is there and cannot stay is taken off.

    Raises:
        FluxGuardError: two of the wishes cannot be seen together.
    """
    targets = dict(asked)
    for name, value in asked.items():
        if value < 1:
            continue
        for other in rivals(name):
            if asked.get(other, 0) == 1:
                raise FluxGuardError(
                    f"{name} and {other} cannot be seen together.", "Ask for one of them."
                )
            if seen.get(other, 0.0) > 0.5:
                targets[other] = 0.0
    return Wanted(targets, tuple(asked))


def flipped(names: Sequence[str], seen: Seen) -> Wanted:
    """Each of the names turned into its opposite."""
    check_names(names, tuple(seen))
    return resolved({name: 0.0 if seen[name] > 0.5 else 1.0 for name in names}, seen)


def given(values: Mapping[str, bool], seen: Seen) -> Wanted:
    """Each of the names as it is given."""
    check_names(tuple(values), tuple(seen))
    return resolved({name: float(value) for name, value in values.items()}, seen)


def neutralised(names: Sequence[str], seen: Seen) -> Wanted:
    """Each of the names half-way, so that a classifier has no answer."""
    check_names(names, tuple(seen))
    return Wanted(dict.fromkeys(names, 0.5), tuple(names))


def randomised(count: int, seen: Seen, *, keep: Sequence[str] = (), seed: int = 0) -> Wanted:
    """`count` attributes outside of `keep`, drawn by the seed, turned into their opposites.

    What is drawn neither takes off what is to be kept nor stands against another that was drawn.
    """
    check_names(keep, tuple(seen))
    if not 1 <= count <= len(seen) - len(set(keep)):
        raise FluxGuardError(
            f"Expected from 1 to {len(seen) - len(set(keep))} attributes to draw, got {count}.",
            "Choose a smaller ‹give count›, or keep fewer.",
        )
    free = [name for name in seen if name not in keep]
    random.Random(seed).shuffle(free)
    chosen: list[str] = []
    for name in free:
        touched = set(flipped([name], seen).targets)
        after = [set(flipped([other], seen).targets) for other in chosen]
        if touched & set(keep) or any(touched & others for others in after):
            continue
        if any(other in rivals(name) for other in chosen):
            continue
        chosen.append(name)
        if len(chosen) == count:
            return flipped(chosen, seen)
    raise FluxGuardError(
        f"Only {len(chosen)} attributes can change together beside those to keep, {count} were asked for.",
        "Choose a smaller ‹give count›.",
    )


def most_revealing(seen: Seen, keep: Sequence[str] = ()) -> tuple[str, ...]:
    """The names that a classifier is surest of first, those to keep left out."""
    check_names(keep, tuple(seen))
    free = [name for name in seen if name not in keep]
    return tuple(sorted(free, key=lambda name: -abs(seen[name] - 0.5)))


def parse_values(text: Sequence[str]) -> dict[str, bool]:
    """``NAME=yes`` and ``NAME=no`` as values by name."""
    values: dict[str, bool] = {}
    for part in text:
        name, _, value = part.partition("=")
        if value not in {"yes", "no"}:
            raise FluxGuardError(f"Expected NAME=yes or NAME=no, got '{part}'.")
        if name in values and values[name] != (value == "yes"):
            raise FluxGuardError(f"{name} was asked for both ways.")
        values[name] = value == "yes"
    return values
