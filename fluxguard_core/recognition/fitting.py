"""How a recogniser of unknown origin wants to be fed: every usual way tried on people who are known.

First the values and the channel order, then the crop, each by how well it tells the people apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from .encoder import FaceEncoder
from .input import InputNote
from .separation import Separation, separate

USUAL_VALUES: tuple[InputNote, ...] = (
    InputNote(range="bytes"),
    InputNote(range="unit"),
    InputNote(range="symmetric"),
    InputNote(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
    InputNote(mean=(123.68, 116.779, 103.939), std=1.0),
    InputNote(mean=(131.0912, 103.8827, 91.4953), std=1.0),
)
"""0..255, 0..1, -1..1; ImageNet's mean and deviation; the means of VGG and of VGGFace2. In RGB order."""
USUAL_CROPS: tuple[InputNote, ...] = (
    InputNote(crop="arcface"),
    InputNote(crop="dlib"),
    InputNote(crop="box"),
    InputNote(crop="box", margin=0.2),
    InputNote(crop="whole"),
)
NOTICEABLE = 0.002
"""Gain of AUC from which another way is preferred to the present one."""

Embed = Callable[[FaceEncoder], Tensor]
"""An encoder -> the unit vectors [N,D] of the people's pictures, cut and fed its way."""


@dataclass(frozen=True)
class Trial:
    """One way of feeding: what was changed against the file's own (empty: nothing), and how it did."""

    note: InputNote
    separation: Separation

    @property
    def score(self) -> tuple[float, float]:
        """AUC; where that is all the same, how far the two heaps lie apart in the strangers' spreads."""
        s = self.separation
        apart = ((s.same_mean or 0.0) - s.strangers_mean) / max(s.spread, 1e-6)
        return (s.auc or 0.0, apart)


def in_order(note: InputNote, colour: str) -> InputNote:
    """Values in RGB order as they are for a network that is fed in this order."""
    if colour != "bgr":
        return replace(note, colour="rgb")
    turned = {
        name: value[::-1] if isinstance(value, tuple) else value
        for name, value in (("mean", note.mean), ("std", note.std))
    }
    return replace(note, colour="bgr", **turned)  # type: ignore[arg-type]


def try_all(
    encoder: FaceEncoder,
    embed: Embed,
    people: Sequence[str],
    *,
    crops: bool = True,
    told: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Every way that was tried, the file's own first. `people` name the pictures' people."""

    def run(notes: Iterable[InputNote]) -> list[Trial]:
        rows = []
        for note in notes:
            rows.append(Trial(note, separate(embed(note.apply(encoder)), people)))
            told(rows[-1])
        return rows

    trials = run([InputNote()])
    values = [in_order(note, colour) for note in USUAL_VALUES for colour in ("rgb", "bgr")]
    trials += run(values)
    if crops:
        leading = best(trials).note
        trials += run(note.over(leading) for note in USUAL_CROPS)
    return trials


def best(trials: Sequence[Trial]) -> Trial:
    """The way that fits best; the file's own where no other is noticeably better."""
    own = trials[0]
    leading = max(trials, key=lambda trial: _rank(trial.score))
    return leading if leading.score[0] > own.score[0] + NOTICEABLE else own


def _rank(score: tuple[float, float]) -> tuple[float, float]:
    auc, apart = score
    return (round(auc / NOTICEABLE) if math.isfinite(auc) else 0.0, apart)
