"""Estimates as one HTML page without script or link, as CSV, and as Markdown tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape

from .evidence import POOLED, Estimate, Lead, is_rate
from .statistics import Interval

NAMES: dict[str, str] = {
    "match": "Still matched to another photo of the person, at FAR 1 %",
    "match.001": "Still matched to another photo of the person, at FAR 0.1 %",
    "cos": "Cosine to another photo of the person",
    "cos.target": "Cosine to the target's other photo",
    "impersonates": "Matched to the target's other photo, at FAR 1 %",
    "rank1": "The person comes first in the search",
    "rank5": "The person is among the first five",
    "rank1.target": "The target comes first in the search",
    "rank5.target": "The target is among the first five",
    "linked": "Matched to another picture of the person treated the same way",
    "cos.link": "Cosine to the person's other pictures treated the same way",
    "ssim": "SSIM to the unprotected picture",
    "psnr": "PSNR to the unprotected picture, dB",
    "haarpsi": "HaarPSI over the face",
    "shift": "Largest shift of a place, of 255",
    "seconds": "Seconds a picture",
    "evaluations": "Network evaluations a picture",
}
_WIDTH, _LEFT, _LINE = 760, 210, 22


def label(measure: str, treatments: Mapping[str, str]) -> str:
    """A measure in words; what was done before it behind an @."""
    name, _, after = measure.partition("@")
    told = NAMES.get(name, name)
    return f"{told}, {treatments.get(after, after)}" if after else told


def shown(measure: str, interval: Interval) -> str:
    """A value with its interval."""
    if is_rate(measure):
        low, high = 100 * interval.low, 100 * interval.high
        return f"{100 * interval.value:.0f} % [{low:.0f}, {high:.0f}]"
    digits = 1 if abs(interval.value) >= 10 else 3
    value, least, most = (f"{v:.{digits}f}" for v in (interval.value, interval.low, interval.high))
    return f"{value} [{least}, {most}]"


def csv_text(found: Sequence[Estimate]) -> str:
    """All estimates, one a row."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        [
            "protocol",
            "treatment",
            "judge",
            "role",
            "measure",
            "column",
            "people",
            "figures",
            "value",
            "low",
            "high",
        ]
    )
    for e in found:
        ends = (f"{v:.5f}" for v in (e.interval.value, e.interval.low, e.interval.high))
        writer.writerow(
            [e.protocol, e.arm, e.judge, e.role, e.measure, e.column, e.people, e.count, *ends]
        )
    return stream.getvalue()


def markdown(
    found: Sequence[Estimate],
    measures: Sequence[str],
    columns: Sequence[str],
    arms: Mapping[str, str],
    portraits: Mapping[str, int],
) -> str:
    """Treatments against measures as a table, held-out judges together, with the number of portraits of each."""
    told_apart = (f"{m}, {c}" if len(columns) > 1 else m for m in measures for c in columns)
    head = ["portraits", *told_apart]
    lines = [f"| treatment | {' | '.join(head)} |", "|---|" + "---|" * len(head)]
    for arm, told in arms.items():
        cells = [
            _cell(
                found, arm, measure, column, "own" if arm in ("unprotected", "default") else column
            )
            for measure in measures
            for column in columns
        ]
        if any(cells):
            shares = " | ".join(cell or "–" for cell in cells)
            lines.append(f"| {told} | {portraits[arm]} | {shares} |")
    return "\n".join(lines)


def _cell(found: Sequence[Estimate], arm: str, measure: str, column: str, instead: str) -> str:
    for wanted in (column, instead):
        for e in found:
            if (e.arm, e.measure, e.column) == (arm, measure, wanted) and e.judge in (
                POOLED,
                "look",
            ):
                return shown(measure, e.interval)
    return ""


def page(
    title: str,
    found: Sequence[Estimate],
    compared: Sequence[Lead],
    *,
    arms: Mapping[str, str],
    treatments: Mapping[str, str],
    columns: Mapping[str, str],
    notes: Sequence[str],
) -> str:
    """Everything on one page; the unprotected picture comes first in every table."""
    told = "".join(f"<p>{escape(note)}</p>" for note in notes)
    body = []
    for protocol in dict.fromkeys(e.protocol for e in found):
        body.append(f"<h2>{escape(protocol)}</h2>")
        mine = [e for e in found if e.protocol == protocol]
        for measure, column in dict.fromkeys((e.measure, e.column) for e in mine):
            rows = [e for e in mine if (e.measure, e.column) == (measure, column)]
            heading = f"{label(measure, treatments)}, {columns.get(column, column)}"
            body.append(
                f"<section><h3>{escape(heading)}</h3>{_plot(rows, arms)}{_table(rows, arms)}</section>"
            )
        body.append(_compared([c for c in compared if c.protocol == protocol], arms, columns))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"{told}{''.join(body)}</body></html>\n"
    )


_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#15191d}"
    "table{border-collapse:collapse;font-size:13px;margin:.5em 0}td,th{padding:.2em .7em;text-align:right;"
    "border-bottom:1px solid #dde1e5;font-weight:400}th:first-child{text-align:left}thead th{color:#57606a}"
    "section{overflow-x:auto}h3{margin:2em 0 .3em}svg{max-width:100%}"
)


def _plot(rows: Sequence[Estimate], arms: Mapping[str, str]) -> str:
    """A dot and its interval a treatment: held-out judges together, or the picture itself."""
    pooled = [e for e in rows if e.judge in (POOLED, "look")]
    if not pooled:
        return ""
    rate = is_rate(pooled[0].measure)
    low = 0.0 if rate else min(0.0, *(e.interval.low for e in pooled))
    high = 1.0 if rate else max(e.interval.high for e in pooled) or 1.0
    span = max(high - low, 1e-9)

    def x(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 20) * (value - low) / span

    parts = [_mark(x, value) for value in (low, (low + high) / 2, high)]
    for number, e in enumerate(_ordered(pooled, arms)):
        y = _LINE * (number + 1)
        colour = (
            "#57606a"
            if e.arm == "unprotected"
            else "#0b6e69"
            if e.arm.startswith("default")
            else "#14558f"
        )
        parts.append(
            f"<text x='{_LEFT - 10}' y='{y + 4}' text-anchor='end' font-size='12'>{escape(arms.get(e.arm, e.arm))}</text>"
            f"<line x1='{x(e.interval.low):.1f}' x2='{x(e.interval.high):.1f}' y1='{y}' y2='{y}' "
            f"stroke='{colour}' stroke-width='2'/><circle cx='{x(e.interval.value):.1f}' cy='{y}' r='4' fill='{colour}'/>"
        )
    height = _LINE * (len(pooled) + 1) + 20
    body = "".join(parts).replace("{bottom}", str(height - 18))
    return f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height}' width='{_WIDTH}'>{body}</svg>"


def _mark(x: Callable[[float], float], value: float) -> str:
    return (
        f"<line x1='{x(value):.1f}' x2='{x(value):.1f}' y1='8' y2='{{bottom}}' stroke='#dde1e5'/>"
        f"<text x='{x(value):.1f}' y='{{bottom}}' dy='14' font-size='11' text-anchor='middle'>{value:.2f}</text>"
    )


def _table(rows: Sequence[Estimate], arms: Mapping[str, str]) -> str:
    judges = list(dict.fromkeys((e.judge, e.role) for e in rows))
    judges.sort(key=lambda judge: (judge[1] != "held out", judge[0] != POOLED))
    head = "".join(f"<th>{escape(_judge(*judge))}</th>" for judge in judges)
    lines = []
    for arm in dict.fromkeys(e.arm for e in _ordered(rows, arms)):
        known = {(e.judge, e.role): e for e in rows if e.arm == arm}
        cells = "".join(
            f"<td>{escape(shown(known[j].measure, known[j].interval)) if j in known else '–'}</td>"
            for j in judges
        )
        lines.append(f"<tr><th>{escape(arms.get(arm, arm))}</th>{cells}</tr>")
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _judge(name: str, role: str) -> str:
    if name == "look":
        return "the picture"
    return "all held out" if name == POOLED else f"{name}, {role}"


def _ordered(rows: Sequence[Estimate], arms: Mapping[str, str]) -> list[Estimate]:
    places = list(arms)
    return sorted(rows, key=lambda e: places.index(e.arm) if e.arm in places else len(places))


def _compared(compared: Sequence[Lead], arms: Mapping[str, str], columns: Mapping[str, str]) -> str:
    if not compared:
        return ""
    rows = "".join(
        f"<tr><th>{escape(arms.get(c.arm, c.arm))}</th><td>{escape(NAMES.get(c.measure, c.measure))}</td>"
        f"<td>{escape(columns.get(c.column, c.column))}</td><td>{c.interval}</td><td>{c.verdict}</td></tr>"
        for c in compared
    )
    return (
        "<h3>Ours minus each other treatment, on the same portraits and held-out judges</h3>"
        f"<table><tbody>{rows}</tbody></table>"
    )
