"""Shares, means and differences over the measured edits, with intervals over people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.evaluate.statistics import clustered_mean, wilson

from .method_rows import AREAS, Row

RIVALS = ("edited", "noise", "blur")
MORE_IS_CLOSER = ("psnr", "haarpsi")


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Shares and means, each [value, low, high] with a 95 % interval over people.

    The edits of one person are not independent, so people are resampled, not rows. Protection is judged on
    the edits that every recogniser matches to the original beforehand. Raises FluxGuardError for edits of
    fewer than two people.
    """
    matched = [
        row for row in rows if all(row.edited[n] > row.thresholds[n] for n in row.thresholds)
    ]
    if people(matched) < 2:
        raise FluxGuardError(
            f"{len(matched)} of {len(rows)} edits are matched by every recogniser beforehand, of "
            f"{people(matched)} people. An interval needs two people: measure more portraits."
        )
    kinds = list(dict.fromkeys(row.edit for row in rows))
    return {
        "edits": len(rows),
        "people": people(rows),
        "hit_rate": share(rows, [row.hit for row in rows]),
        "hit_rate_by_edit": {kind: _hits(rows, kind) for kind in kinds},
        "edit_outside": {
            area: _outside(rows, [(r.edit_outside[area], r.edit_share[area]) for r in rows])
            for area in AREAS
        },
        "protected_outside": {
            area: _outside(
                rows, [(r.protected_outside[area], r.protected_share[area]) for r in rows]
            )
            for area in AREAS
        },
        "ssim": mean(rows, [row.ssim for row in rows]),
        "likeness": _likeness(rows),
        "matched_before": share(rows, [row in matched for row in rows]),
        "matched_edits": len(matched),
        "recognisers": {name: _recogniser(name, matched) for name in matched[0].thresholds},
    }


def people(rows: Iterable[Row]) -> int:
    """How many different people the rows show."""
    return len({row.portrait for row in rows})


def mean(rows: Sequence[Row], values: Sequence[float]) -> list[float]:
    """[mean, low, high] of one value a row, by bootstrap over people."""
    found = clustered_mean(values, [row.portrait for row in rows])
    return [found.value, found.low, found.high]


def share(rows: Sequence[Row], hits: Sequence[bool]) -> list[float]:
    """[share, low, high] of one answer a row, by bootstrap over people.

    A share of 0 or 1 shows the bootstrap no variation: Wilson's interval for that many people then.
    """
    if len(set(hits)) == 1:
        found = wilson(people(rows) * hits[0], people(rows))
        return [found.value, found.low, found.high]
    return mean(rows, [float(hit) for hit in hits])


def difference(rows: Sequence[Row], first: Sequence[bool], second: Sequence[bool]) -> list[float]:
    """[difference, low, high] of two shares of the same rows, by bootstrap over people.

    Where every row says the same, as wide to either side as Wilson's interval of an unseen event.
    """
    gaps = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    if len(set(gaps)) == 1:
        unseen = wilson(0, people(rows)).high
        return [gaps[0], max(-1.0, gaps[0] - unseen), min(1.0, gaps[0] + unseen)]
    return mean(rows, gaps)


def _likeness(rows: Sequence[Row]) -> dict[str, Any] | None:
    """By figure its mean and the worst edit's; None where fewer than two people were measured."""
    known = [(row, row.likeness) for row in rows if row.likeness is not None]
    those = [row for row, _ in known]
    if people(those) < 2:
        return None
    found: dict[str, Any] = {"edits": len(known)}
    for name in known[0][1]:
        values = [figures[name] for _, figures in known]
        worst = min(values) if name in MORE_IS_CLOSER else max(values)
        found[name] = {"mean": mean(those, values), "worst": worst}
    return found


def _hits(rows: Sequence[Row], kind: str) -> list[float]:
    chosen = [row for row in rows if row.edit == kind]
    if people(chosen) < 2:
        found = wilson(sum(row.hit for row in chosen), len(chosen))
        return [found.value, found.low, found.high]
    return share(chosen, [row.hit for row in chosen])


def _outside(rows: Sequence[Row], found: Sequence[tuple[float | None, float]]) -> dict[str, Any]:
    """Mean PSNR of the edits that have pixels there, their number, and the mean share of pixels."""
    kept = [
        (row, psnr, pixels)
        for row, (psnr, pixels) in zip(rows, found, strict=True)
        if psnr is not None
    ]
    those, values, shares = [k[0] for k in kept], [k[1] for k in kept], [k[2] for k in kept]
    return {
        "psnr": mean(those, values) if people(those) > 1 else None,
        "pixels": sum(shares) / len(shares) if shares else 0.0,
        "edits": len(kept),
    }


def _recogniser(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    def below(kind: str) -> list[bool]:
        return [getattr(row, kind)[name] <= row.thresholds[name] for row in rows]

    def cosines(kind: str) -> list[float]:
        return [getattr(row, kind)[name] for row in rows]

    protected, hidden = cosines("protected"), below("protected")
    return {
        "attacked": rows[0].attacked[name],
        "threshold": rows[0].thresholds[name],
        "edited": mean(rows, cosines("edited")),
        "protected": mean(rows, protected),
        "below_after_protection": share(rows, hidden),
        "below_after_noise": share(rows, below("noise")),
        "below_after_blur": share(rows, below("blur")),
        "cosine_against": {
            rival: mean(rows, [a - b for a, b in zip(protected, cosines(rival), strict=True)])
            for rival in RIVALS
        },
        "below_against": {rival: difference(rows, hidden, below(rival)) for rival in RIVALS},
    }
