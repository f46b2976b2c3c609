"""Rows of the cloners' bench: whom the pictures of an adapter show, by person, arm and encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .shield_rows import CLEAN, told_difference, told_mean


@dataclass(frozen=True)
class ClonerCell:
    """Pictures that an adapter makes of one person's photo, shielded by one arm at one budget.

    Args:
        encoder: what the adapter reads the photo with; ``attacked`` if the shield moved it.
        reading: cosine of that encoder's vector of the photo to its vector of the original.
        found: share of the adapter's pictures in which the detector finds a face.
        match: share of found faces that recognisers which took no part take for the person; lower is a stronger shield.
        similarity: mean cosine of found faces to the person, over those recognisers; None without a face.
        visible: PSNR of the shielded photo against the original.
    """

    person: int
    arm: str
    budget: int
    encoder: str
    attacked: bool
    reading: float
    found: float
    match: float
    similarity: float | None
    visible: float


def cloner_table(cells: Sequence[ClonerCell]) -> str:
    """A Markdown table by budget, encoder and arm; the paired difference of matches is to unprotected photos."""
    lines = [
        "| budget | adapter reads with | arm | people | its own reading, cosine | faces found | match the person "
        "| against unprotected | cosine | visible, dB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for budget, encoder, arm in dict.fromkeys((c.budget, c.encoder, c.arm) for c in cells):
        every = [c for c in cells if (c.budget, c.encoder) == (budget, encoder)]
        group = [c for c in every if c.arm == arm]
        clean = {c.person: c.match for c in every if c.arm == CLEAN}
        both = [(c.match, clean[c.person]) for c in group if c.person in clean]
        role = "attacked" if any(c.attacked for c in every) else "held out"
        parts = [
            str(budget),
            f"{encoder}, {role}",
            arm,
            str(len(group)),
            told_mean([c.reading for c in group], 2),
            told_mean([c.found for c in group], 2),
            told_mean([c.match for c in group], 2),
            "" if arm == CLEAN or len(both) < 2 else told_difference(both, 2),
            told_mean([c.similarity for c in group if c.similarity is not None], 2),
            "" if arm == CLEAN else told_mean([c.visible for c in group], 1),
        ]
        lines.append("| " + " | ".join(parts) + " |")
    return "\n".join(lines)
