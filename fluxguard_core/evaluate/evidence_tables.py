"""The tables of docs/evidence.md from a log alone, so that a test can hold the page against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .evidence import Figure, counted, estimates, figures, leads
from .evidence_page import markdown, shown

MATCHED = ("own", "ssim", "psnr", "likeness")
_FIRST = ("unprotected", "default")


def tables(header: Mapping[str, Any], lines: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Markdown by name: ``count``, ``verify``, ``look``, ``identify``, ``robust``, ``ablate``, ``leads``."""
    found, arms = figures(lines), header["arms"]
    out = {"count": _count(header, found)}
    for name, measures, columns in (
        ("verify", ["match"], MATCHED),
        ("look", ["cos", "ssim", "psnr", "haarpsi", "shift"], ("own",)),
        ("identify", ["rank1", "rank5", "linked", "cos.link"], ("own",)),
        ("robust", _after(found), ("own",)),
        ("ablate", ["match", "cos", "ssim", "haarpsi"], ("own",)),
    ):
        protocol = "verify" if name == "look" else name
        mine = estimates([f for f in found if f.protocol == protocol])
        present = {f.arm for f in found if f.protocol == protocol}
        chosen = {
            arm: told
            for arm, told in sorted(arms.items(), key=lambda item: item[0] not in _FIRST)
            if arm in present
        }
        if mine and chosen:
            out[name] = markdown(mine, measures, columns, chosen)
    compared = [
        c for c in leads(found, "default", ["cos"]) if c.protocol == "verify" and c.column != "own"
    ]
    if compared:
        rows = [
            f"| {arms[c.arm]} | {c.column} | {shown('cos', c.interval)} | {c.verdict} |"
            for c in compared
        ]
        head = "| ours minus | at our | held-out cosine | |\n|---|---|---|---|"
        out["leads"] = "\n".join([head, *rows])
    return out


def _count(header: Mapping[str, Any], found: list[Figure]) -> str:
    parts = []
    for protocol in dict.fromkeys(f.protocol for f in found):
        counts = counted([f for f in found if f.protocol == protocol])
        parts.append(f"{protocol}: {counts['portraits']} portraits of {counts['people']} people")
    return f"{'; '.join(parts)}; a gallery of {header['gallery']} people."


def _after(found: list[Figure]) -> list[str]:
    return list(dict.fromkeys(f.measure for f in found if f.measure.startswith("match@")))
