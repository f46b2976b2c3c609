"""The README's tables of what was measured on the miniature, made from the figures themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .quality_table import role

# An area that a PSNR leaves out, in the README's words; {} is the share of pixels that the figure rests on.
EDITED = {
    "mask": "edit, PSNR outside the edit mask ({} of the pixels)",
    "cells": "edit, PSNR outside the mask's latent cells of 8 pixels ({})",
    "ring": "edit, PSNR one more cell away ({})",
}
LOOKS = {
    "psnr": "protected against edited, PSNR around the face, dB ({} edits)",
    "haarpsi": "protected against edited, HaarPSI of the face ({} edits)",
    "shift": "protected against edited, shift of 255 ({} edits)",
    "skin": "protected against edited, skin of 255 ({} edits)",
}
PROTECTED = "protected, PSNR outside mask and face region ({} of the pixels)"


def markdown(figures: dict[str, Any]) -> str:
    """Blocks of Markdown, an empty line between them: the edits, the recognisers, FLUX's samples where measured."""
    blocks = [_edits(figures["method"]), _recognisers(figures["method"])]
    if "samples" in figures:
        agreed, count = _percent(figures["samples"]["all"]), figures["pictures"]
        blocks.append(
            f"The miniature's FLUX draws {agreed} % of its captions' attributes ({count} captions)"
        )
    return "\n\n".join(blocks)


def _edits(method: dict[str, Any]) -> str:
    rows = [("the edit arrives, by an attribute classifier", _share(method["hit_rate"]))]
    for area, words in EDITED.items():
        facts = method["edit_outside"][area]
        rows.append((words.format(f"{facts['pixels']:.0%}".replace("%", " %")), _decibels(facts)))
    facts = method["protected_outside"]["mask"]
    rows.append((PROTECTED.format(f"{facts['pixels']:.0%}".replace("%", " %")), _decibels(facts)))
    rows.append(("protected against edited, SSIM", _interval(method["ssim"], 3)))
    rows += _likeness(method["likeness"])
    matched = "edits that every recogniser still matches to the original"
    rows.append((matched, _share(method["matched_before"])))
    title = f"{method['edits']} edits of {method['people']} people"
    return _table([title, ""], rows)


def _likeness(found: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What friends see, where the log holds it."""
    if found is None:
        return []
    digits = {"psnr": 1, "haarpsi": 3, "shift": 1, "skin": 1}
    return [
        (words.format(found["edits"]), _interval(found[name]["mean"], digits[name]))
        for name, words in LOOKS.items()
    ]


def _recognisers(method: dict[str, Any]) -> str:
    titles = [
        "recogniser",
        "",
        "no longer matches, protected",
        "with noise, with blur of equal SSIM",
        "mean cosine, edited to protected",
    ]
    rows = []
    for name, facts in method["recognisers"].items():
        noise, blur = facts["below_after_noise"][0], facts["below_after_blur"][0]
        rows.append(
            (
                name,
                role(name, facts["attacked"]),
                _share(facts["below_after_protection"]),
                f"{_percent(noise)} %, {_percent(blur)} %",
                f"{facts['edited'][0]:.2f} to {facts['protected'][0]:.2f}",
            )
        )
    return _table(titles, rows)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, *rows]
    text = ["".join(f"| {cell} " if cell else "| " for cell in line) + "|" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(titles), *text[1:]])


def _decibels(facts: dict[str, Any]) -> str:
    return "nothing there" if facts["psnr"] is None else f"{_interval(facts['psnr'], 1)} dB"


def _share(values: Sequence[float]) -> str:
    value, low, high = (_percent(part) for part in values)
    return f"{value} % [{low}, {high}]"


def _interval(values: Sequence[float], digits: int) -> str:
    value, low, high = (f"{part:.{digits}f}" for part in values)
    return f"{value} [{low}, {high}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
