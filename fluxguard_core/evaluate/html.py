"""One self-contained HTML file for a report: no script, no link, readable on a phone and on paper."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from html import escape
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..pictures.files import png_bytes, write_atomic
from ..regions import Found
from ..regions.overlay import overlay as region_overlay
from .html_close import full_size, links
from .likeness import WORDS, Likeness, heat_picture
from .quality import Quality
from .report import Pictures, Report
from .similarity import Recognition
from .style import STYLE
from .verdict import HONESTY, Tally, state

LONGEST_SIDE = 768
"""Pictures are shown at most this large; the difference is taken before they are scaled."""


PRIVATE = "This page shows the original face: it is for you alone. Publish the protected picture, never this page."
"""What every page with pictures says first."""


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _cosine(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def _decibels(value: float | None) -> str:
    if value is None:
        return "not measured"
    # Beyond 100 dB lies the rounding of float32, not the picture.
    return "identical" if value > 100 else f"{value:.1f} dB"


def shown(image: Tensor, longest: int = LONGEST_SIDE) -> Tensor:
    """The picture [1,3,H,W] scaled down so that no side exceeds `longest`."""
    height, width = image.shape[-2:]
    factor = longest / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return F.interpolate(image.float(), size, mode="area").clamp(0, 1)


def difference(pictures: Pictures, gain: float = 10) -> Tensor:
    """Absolute difference of the protected and the edited picture, times `gain`: [1,3,H,W]."""
    return ((pictures.protected - pictures.edited).abs() * gain).clamp(0, 1)


def overlay(image: Tensor, mask: Tensor) -> Tensor:
    """The picture with what the mask leaves out greyed and dimmed: [1,3,H,W]."""
    mask = mask.to(image)
    grey = image.mean(1, keepdim=True) * 0.35 + 0.12
    return image * mask + grey * (1 - mask)


def _figure(image: Tensor, title: str, note: str, alt: str) -> str:
    data = base64.b64encode(png_bytes(shown(image))).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt)}">'
        f"<figcaption>{escape(title)}<span>{escape(note)}</span></figcaption></figure>"
    )


def _edit_region(source: Tensor, mask: Tensor, found: Found | None) -> str:
    """Where the edit may act; regions that words named in colours, with how they were found."""
    share = f"{_percent(float(mask.float().mean()))} of the picture"
    if found is None:
        seen = overlay(source, mask)
    else:
        share, seen = f"{share}: {found.told()}", region_overlay(source, found)
    return _figure(seen, "Where the edit may act", share, "the edit mask on the original")


def _pictures(report: Report, pictures: Pictures) -> str:
    edit = (
        []
        if torch.equal(pictures.source, pictures.edited)
        else [_figure(pictures.edited, "Edited", "before protection", "the edited portrait")]
    )
    items = [
        _figure(pictures.source, "Original", "what went in", "the original portrait"),
        *edit,
        _figure(pictures.protected, "Protected", "to publish", "the protected portrait"),
    ]
    if pictures.mask is not None:
        items.append(_edit_region(pictures.source, pictures.mask, pictures.found))
    if pictures.region is not None:
        share = _percent(float(pictures.region.float().mean()))
        items.append(
            _figure(
                overlay(pictures.edited, pictures.region),
                "Where the protection may act",
                f"{share} of the picture",
                "the protected region on the edited picture",
            )
        )
    items.append(
        _figure(
            difference(pictures),
            "What the protection changed",
            "difference × 10",
            "difference between the protected and the edited portrait, ten times",
        )
    )
    items.append(
        _figure(
            heat_picture(pictures.edited, pictures.protected),
            "Where the protection may be seen",
            "the redder, the more the picture changed there",
            "the protected portrait in grey, red where it was changed",
        )
    )
    words = ""
    if report.prompt:
        before = f"from <q>{escape(report.source_prompt)}</q> " if report.source_prompt else ""
        words = f'<p class="prompt">Edited {before}to <q>{escape(report.prompt)}</q></p>'
    return (
        f'<section><h2>Pictures</h2><p class="lead">{PRIVATE}</p>{words}'
        f'<div class="pictures">{"".join(items)}</div></section>'
    )


def axis_range(results: Iterable[Recognition]) -> tuple[float, float]:
    """The cosine axis: from 0, or below the lowest value, to 1."""
    values = [value for result in results for value in (result.edited, result.protected)]
    low = min([0.0, *values])
    return (-0.2 * (-(low // 0.2)) if low < 0 else 0.0), 1.0


def _at(value: float, axis: tuple[float, float]) -> float:
    low, high = axis
    return 100 * (min(max(value, low), high) - low) / (high - low)


def _bar(kind: str, value: float, axis: tuple[float, float]) -> str:
    start, end = sorted((_at(0.0, axis), _at(value, axis)))
    width = max(end - start, 0.4)
    return f'<div class="bar {kind}" style="left:{start:.2f}%;width:{width:.2f}%"></div>'


def _row(result: Recognition, axis: tuple[float, float]) -> str:
    kind, words = state(result)
    fresh = "" if result.attacked else " fresh"
    role = "attacked" if result.attacked else "held out"
    limit = ""
    if result.threshold is not None:
        limit = f'<div class="limit" style="left:{_at(result.threshold, axis):.2f}%"></div>'
    told = f"threshold {_cosine(result.threshold)}" if result.threshold is not None else ""
    return (
        f'<div class="row {kind}"><div class="name">{escape(result.name)}'
        f'<span class="role{fresh}">{role}</span></div>'
        f'<div class="bars" aria-hidden="true">'
        f'<div class="zero" style="left:{_at(0.0, axis):.2f}%"></div>'
        f"{_bar('edited', result.edited, axis)}{_bar('protected', result.protected, axis)}{limit}"
        f'</div><div class="number"><span class="state">{words}</span>'
        f"{_cosine(result.edited)} → <b>{_cosine(result.protected)}</b><br>{told}</div></div>"
    )


def _axis(axis: tuple[float, float]) -> str:
    low, high = axis
    steps = round((high - low) / 0.2)
    marks = "".join(
        f'<span style="left:{_at(low + 0.2 * i, axis):.2f}%">'
        f"{f'{low + 0.2 * i:.1f}'.replace('-0.0', '0.0').replace('-', '−')}</span>"
        for i in range(steps + 1)
    )
    return f'<div class="axis" aria-hidden="true"><div></div><div>{marks}</div><div></div></div>'


def _recognisers(report: Report) -> str:
    results = report.recognisers
    axis = axis_range(results)
    rates = sorted({result.far for result in results if result.far is not None})
    rate = ""
    if rates:
        told = " and ".join(_percent(value) for value in rates)
        rate = (
            f" The upright line is the recogniser's threshold at a false accept rate of {told}: "
            f"that share of pairs of strangers is taken for one person."
        )
    sources = sorted({result.source for result in results if result.source})
    origin = (
        f'<p class="lead origin">Thresholds: {escape("; ".join(sources))}.</p>' if sources else ""
    )
    return (
        "<section><h2>Similarity to the original</h2>"
        f'<p class="lead">Cosine similarity, 1 = the same face. Left of the line is no match.{rate}'
        "</p>"
        '<ul class="key"><li><i style="background:var(--before)"></i>before protection</li>'
        '<li><i style="background:var(--good)"></i>protected, no longer matches</li>'
        '<li><i style="background:var(--bad)"></i>protected, still matches</li>'
        '<li><i class="limit"></i>threshold</li></ul>'
        f"{''.join(_row(result, axis) for result in results)}{_axis(axis)}{origin}</section>"
    )


def _table(head: Iterable[str], rows: Iterable[str]) -> str:
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return (
        f'<div class="wide"><table><thead><tr>{columns}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _judged(result: Recognition, protected: float | None, edited: float | None) -> str:
    matches = result.matches(protected)
    kind = {None: "", True: ' class="bad"', False: ' class="good"'}[matches]
    word = {None: "", True: " match", False: " no match"}[matches]
    return (
        f'<td class="value"><span{kind}>{_cosine(protected)}{word}</span>'
        f"<small>unprotected {_cosine(edited)}</small></td>"
    )


def _named(result: Recognition) -> str:
    role = "attacked" if result.attacked else "held out"
    return f'<th scope="row">{escape(result.name)}<span class="role">{role}</span></th>'


def _sharing(report: Report) -> str:
    labels = list(dict.fromkeys(a.label for r in report.recognisers for a in r.robustness))
    if not labels:
        return ""
    rows = []
    for result in report.recognisers:
        known = {after.label: after for after in result.robustness}
        cells = [
            _judged(result, known[label].protected, known[label].edited)
            if label in known
            else "<td>–</td>"
            for label in labels
        ]
        rows.append(f"<tr>{_named(result)}{''.join(cells)}</tr>")
    return (
        "<section><h2>After sharing</h2>"
        '<p class="lead">Similarity of the protected picture to the original after what platforms '
        "do to pictures.</p>"
        f"{_table(['Recogniser', *labels], rows)}</section>"
    )


def _others(report: Report) -> str:
    second = any(r.second_protected is not None for r in report.recognisers)
    target = any(r.target_protected is not None for r in report.recognisers)
    if not second and not target:
        return ""
    head = (
        ["Recogniser"] + ["Another photo of the person"] * second + ["Identity aimed at"] * target
    )
    rows = []
    for result in report.recognisers:
        cells = _judged(result, result.second_protected, result.second_edited) if second else ""
        if target:
            cells += (
                f'<td class="value">{_cosine(result.target_protected)}<small>unprotected '
                f"{_cosine(result.target_edited)}</small></td>"
            )
        rows.append(f"<tr>{_named(result)}{cells}</tr>")
    return f"<section><h2>Against other pictures</h2>{_table(head, rows)}</section>"


def _counted(count: Tally) -> tuple[str, str]:
    if count.measured == 0:
        return "–", "none measured"
    if count.matched == 0:
        return "–", "none matched even before"
    return str(count), "lost the match"


def _facts(report: Report) -> str:
    verdict = report.verdict
    seconds = sum(report.seconds.values())
    time = f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    passes = sum(report.evaluations.values())
    items = [
        ("Attacked recognisers", *_counted(verdict.attacked)),
        ("Not used in the attack", *_counted(verdict.held_out)),
        (
            "Kept by the protection",
            f"{report.protection.ssim:.3f}",
            f"SSIM; PSNR {_decibels(report.protection.psnr)}",
        ),
        (
            "Time",
            time if report.seconds else "–",
            f"{passes} transformer evaluations" if passes else "measuring only",
        ),
    ]
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in items
    )
    return f'<dl class="facts">{cells}</dl>'


def _quality(report: Report) -> str:
    def row(name: str, value: Quality) -> str:
        return (
            f'<tr><th scope="row">{name}</th><td>{_decibels(value.psnr)}</td>'
            f"<td>{value.ssim:.4f}</td><td>{_decibels(value.outside)}</td></tr>"
        )

    rows = [
        row("Edited, against the original", report.edit),
        row("Protected, against the unprotected", report.protection),
    ]
    head = ("", "PSNR", "SSIM", "PSNR outside the region")
    return f"<section><h2>Picture quality</h2>{_table(head, rows)}</section>"


_FIGURES: tuple[tuple[str, str, str], ...] = (
    ("psnr", "PSNR, dB", "how much was changed; more is closer"),
    ("haarpsi", "HaarPSI", "how clean the face looks; from .95 clean, below .90 dirty or altered"),
    (
        "shift",
        "Shift, of 255",
        "a feature that moved or changed its shade; up to 8 unnoticed, above 12 another face",
    ),
    ("skin", "Skin, of 255", "creases on smooth skin; above 3 they show"),
    ("spot", "Spot, of 255", "one place that took most of the change; above 8 it stands out"),
)


def _likeness(report: Report) -> str:
    """What friends see, in words and figures, face by face."""
    if not report.likeness:
        return ""
    several = len(report.likeness) > 1
    told = "".join(
        f"<p>{f'Face {number}: ' if several else ''}{escape(WORDS[look.verdict])}.</p>"
        for number, look in enumerate(report.likeness)
    )
    rows = [
        f'<tr><th scope="row">{name}<small>{escape(meaning)}</small></th>'
        + "".join(f"<td>{_figure_of(look, key)}</td>" for look in report.likeness)
        + "</tr>"
        for key, name, meaning in _FIGURES
    ]
    faces = [f"Face {n}" if several else "Face" for n in range(len(report.likeness))]
    return (
        "<section><h2>Likeness, as friends see it</h2>"
        '<p class="lead">The protected face compared with the unprotected one. Pixels are those of a face whose eyes '
        f"lie 60 pixels apart.</p>{told}{_table(['', *faces], rows)}</section>"
    )


def _figure_of(look: Likeness, key: str) -> str:
    value = float(getattr(look, key))
    if key == "psnr":
        return _decibels(value)
    return f"{value:.3f}" if key == "haarpsi" else f"{value:.1f}"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_word(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_word(item) for item in value)
    return str(value)


def _settings(report: Report) -> str:
    height, width = report.size
    entries: list[tuple[str, Any]] = [
        ("Model", report.model),
        ("Preset", report.preset),
        ("Identity", report.identity),
        ("Picture", f"{width} × {height} pixels"),
        ("Device", report.device),
        *(
            (name[:1].upper() + name[1:].replace("_", " "), value)
            for name, value in report.settings.items()
        ),
    ]
    if report.evaluations:
        entries.append(("Transformer evaluations", report.evaluations))
    if report.seconds:
        entries.append(("Seconds", {k: round(v, 2) for k, v in report.seconds.items()}))
    if report.peak_bytes is not None:
        entries.append(("Peak memory", f"{report.peak_bytes / 2**30:.2f} GiB"))
    lines = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(_word(value))}</dd>"
        for name, value in entries
        if value not in ("", None)
    )
    notes = "".join(f'<p class="lead">{escape(note)}</p>' for note in report.notes)
    return f'<section><h2>Run</h2>{notes}<dl class="settings">{lines}</dl></section>'


def _limits(report: Report) -> str:
    def items(lines: Iterable[str]) -> str:
        return "".join(f"<li>{escape(line)}</li>" for line in lines)

    return (
        '<section class="two"><div><h2>What this does not do</h2>'
        f"<ul>{items(HONESTY)}</ul></div><div><h2>Not measured here</h2>"
        f"<ul>{items(report.not_measured)}</ul></div></section>"
    )


def render_html(report: Report, pictures: Pictures) -> str:
    """The whole report as one HTML document with its pictures inside."""
    verdict = report.verdict
    level = verdict.level.replace(" ", "-")
    body = "".join(
        (
            _pictures(report, pictures),
            full_size(pictures),
            _recognisers(report),
            _sharing(report),
            _others(report),
            links(report),
            _likeness(report),
            _quality(report),
            _limits(report),
            _settings(report),
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="robots" content="noindex">'
        f"<title>Privacy report: {escape(verdict.headline)}</title><style>{STYLE}</style></head>"
        '<body><header><p class="brand"><b>FluxGuard</b>Privacy report</p>'
        f'<div class="verdict {level}"><h1>{escape(verdict.headline)}</h1>'
        f"<p>{escape(verdict.detail)}</p></div>{_facts(report)}</header><main>{body}"
        f"<footer>FluxGuard {escape(report.version)}. Every figure was measured in this run on this "
        "picture; it holds for the recognisers named here.</footer></main></body></html>\n"
    )


def write_html(path: str | os.PathLike[str], report: Report, pictures: Pictures) -> None:
    """Write `render_html`, whole or not at all."""
    write_atomic(path, render_html(report, pictures))
