"""The tables of docs/evidence.md from a log alone, so that a test can hold the page against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .evidence import POOLED, Estimate, Figure, Lead, counted, estimates, figures, leads
from .evidence_page import markdown, shown

MATCHED = ("own", "ssim", "psnr", "likeness")
_FIRST = ("unprotected", "default")


def tables(header: Mapping[str, Any], lines: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Markdown by name: ``count``, ``verify``, ``look``, ``identify``, ``robust``, ``ablate``, ``leads``, ``parts``."""
    found, arms = figures(lines), header["arms"]
    out = {"count": _count(header, found)}
    for name, measures, columns in (
        ("verify", ["match"], MATCHED),
        ("look", ["cos", "ssim", "psnr", "haarpsi", "shift"], ("own",)),
        ("identify", ["rank1", "rank5", "linked", "cos.link"], ("own",)),
        ("ablate", ["match", "cos", "ssim", "haarpsi"], ("own",)),
    ):
        protocol = "verify" if name == "look" else name
        asked = [f for f in found if f.protocol == protocol]
        mine, portraits = estimates(asked), _portraits(asked)
        chosen = {
            arm: told
            for arm, told in sorted(arms.items(), key=lambda item: item[0] not in _FIRST)
            if arm in portraits
        }
        if mine and chosen:
            out[name] = markdown(mine, measures, columns, chosen, portraits)
    sharing = estimates([f for f in found if f.protocol == "robust"])
    if sharing:
        out["robust"] = _by_treatment(sharing, arms)
    led = leads(found, "default", ["cos"])
    compared = [c for c in led if c.protocol == "verify" and c.column != "own"]
    if compared:
        out["leads"] = _leads(compared, arms)
    parts = [c for c in led if c.protocol == "ablate" and c.arm != "unprotected"]
    if parts:
        out["parts"] = _parts(parts, arms)
    return out


def _portraits(found: Sequence[Figure]) -> dict[str, int]:
    """Of each treatment."""
    subjects: dict[str, set[str]] = {}
    for f in found:
        subjects.setdefault(f.arm, set()).add(f.subject)
    return {arm: len(names) for arm, names in subjects.items()}


def _by_treatment(found: list[Estimate], arms: Mapping[str, str]) -> str:
    """Shares still matched: what was done to the picture against how it was protected."""
    cells = {(e.measure, e.arm): shown(e.measure, e.interval) for e in found if e.judge == POOLED}
    after = dict.fromkeys(m for m, _ in cells if m.startswith("match@"))
    chosen = [arm for arm in arms if any(name == arm for _, name in cells)]
    chosen.sort(key=lambda arm: arm not in _FIRST)
    lines = [
        f"| match after | {' | '.join(arms[a] for a in chosen)} |",
        "|---" * (len(chosen) + 1) + "|",
    ]
    for measure in after:
        row = " | ".join(cells.get((measure, arm), "–") for arm in chosen)
        lines.append(f"| {measure.removeprefix('match@')} | {row} |")
    return "\n".join(lines)


def _leads(found: list[Lead], arms: Mapping[str, str]) -> str:
    """Differences of the held-out cosine, one treatment a row."""
    lines = [
        f"| ours minus | people | {' | '.join(f'at our {c}' for c in MATCHED[1:])} |",
        "|---" * (len(MATCHED) + 1) + "|",
    ]
    for arm in dict.fromkeys(c.arm for c in found):
        mine = {c.column: c for c in found if c.arm == arm}
        row = [
            f"{shown('cos', mine[c].interval)}: {mine[c].verdict}" if c in mine else "–"
            for c in MATCHED[1:]
        ]
        people = max(c.people for c in mine.values())
        lines.append(f"| {arms[arm]} | {people} | {' | '.join(row)} |")
    return "\n".join(lines)


def _parts(found: list[Lead], arms: Mapping[str, str]) -> str:
    """What the default's held-out cosine loses (below 0) by each part taken out, and what it gains."""
    lines = [
        f"| the default minus | people | own | {' | '.join(f'at our {c}' for c in MATCHED[1:])} |",
        "|---" * (len(MATCHED) + 2) + "|",
    ]
    for arm in dict.fromkeys(c.arm for c in found):
        mine = {c.column: c for c in found if c.arm == arm}
        row = [shown("cos", mine[c].interval) if c in mine else "–" for c in MATCHED]
        lines.append(
            f"| {arms[arm]} | {max(c.people for c in mine.values())} | {' | '.join(row)} |"
        )
    return "\n".join(lines)


def _count(header: Mapping[str, Any], found: list[Figure]) -> str:
    parts = []
    for protocol in dict.fromkeys(f.protocol for f in found):
        counts = counted([f for f in found if f.protocol == protocol])
        parts.append(f"{protocol}: {counts['portraits']} portraits of {counts['people']} people")
    return f"{'; '.join(parts)}; a gallery of {header['gallery']} people."
