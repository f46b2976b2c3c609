"""Tables and a plot of likeness against protection, from cells of any measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean

from .statistics import Interval, Paired, paired, wilson

WIDTH, HEIGHT, PAD = 720, 420, 60
_COLOURS = ("#14558f", "#c2410c", "#15803d", "#7c3aed", "#a16207", "#be185d", "#475569", "#0e7490")


@dataclass(frozen=True)
class Row:
    """One method at one strength, over all its photos and judges.

    Args:
        match: share of comparisons with other photos of the person that still match, with Wilson's interval;
            comparisons of one person are not independent, so the true interval is wider.
        cosine: mean held-out cosine; way: mean share of the way to a stranger.
        kept: share of the drop in cosine that is left after each sharing step.
        psnr, haarpsi, shift, skin: means; ``worst`` those of the worst photo.
    """

    method: str
    strength: float
    cells: int
    match: Interval
    cosine: float
    way: float
    kept: Mapping[str, float]
    psnr: float
    haarpsi: float
    shift: float
    skin: float
    spot: float
    worst: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Against:
    """A method against a baseline, in one judge's fold: paired difference of cosines, below 0 where it protects more."""

    method: str
    baseline: str
    judge: str
    cosine: Paired

    @property
    def leads(self) -> bool:
        """The interval lies below 0."""
        return self.cosine.difference.high < 0


def row_of(method: str, strength: float, cells: Sequence[Mapping[str, object]]) -> Row:
    """Sum cells (see ``pipelines.face_bench.Cell``, as mappings) up."""
    matches = [bool(m) for cell in cells for m in _list(cell, "matches")]
    figures = {
        name: [_number(cell, name) for cell in cells]
        for name in ("psnr", "haarpsi", "shift", "skin", "spot")
    }
    return Row(
        method=method,
        strength=strength,
        cells=len(cells),
        match=wilson(sum(matches), len(matches)),
        cosine=fmean(_mean(cell, "cosines") for cell in cells),
        way=fmean(_number(cell, "way") for cell in cells),
        kept=_kept(cells),
        psnr=fmean(figures["psnr"]),
        haarpsi=fmean(figures["haarpsi"]),
        shift=fmean(figures["shift"]),
        skin=fmean(figures["skin"]),
        spot=fmean(figures["spot"]),
        worst=(
            min(figures["psnr"]),
            min(figures["haarpsi"]),
            max(figures["shift"]),
            max(figures["skin"]),
            max(figures["spot"]),
        ),
        seconds=fmean(_number(cell, "seconds") for cell in cells),
    )


def unprotected(cells: Sequence[Mapping[str, object]]) -> Interval:
    """How many of the photos' comparisons match without protection: the line to start from."""
    seen = {(cell["photo"], cell["judge"]): _list(cell, "clean_matches") for cell in cells}
    matches = [bool(m) for row in seen.values() for m in row]
    return wilson(sum(matches), len(matches))


def against(
    cells: Sequence[Mapping[str, object]], method: str, baselines: Sequence[str], strength: float
) -> list[Against]:
    """A method against baselines at equal strength, which is equal likeness, judge by judge."""
    out = []
    judges = list(dict.fromkeys(str(cell["judge"]) for cell in cells))
    for baseline in baselines:
        for judge in judges:
            ours, theirs = (_by_photo(cells, name, judge, strength) for name in (method, baseline))
            common = [photo for photo in ours if photo in theirs]
            if len(common) > 1:
                test = paired([ours[p] for p in common], [theirs[p] for p in common])
                out.append(Against(method, baseline, judge, test))
    return out


def _by_photo(
    cells: Sequence[Mapping[str, object]], method: str, judge: str, strength: float
) -> dict[str, float]:
    return {
        str(cell["photo"]): _mean(cell, "cosines")
        for cell in cells
        if (cell["method"], cell["judge"], cell["strength"]) == (method, judge, strength)
    }


def _kept(cells: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """Share of the drop that is left: ratio of sums, for single drops come near 0."""
    gain = sum(_mean(cell, "clean_cosines") - _mean(cell, "cosines") for cell in cells)
    steps: dict[str, float] = {}
    for cell in cells:
        after, before = cell["shared"], cell["shared_clean"]
        assert isinstance(after, Mapping) and isinstance(before, Mapping)
        for name in after:
            steps[name] = steps.get(name, 0.0) + before[name] - after[name]
    return {name: drop / gain if gain else float("nan") for name, drop in steps.items()}


def _number(cell: Mapping[str, object], name: str) -> float:
    value = cell[name]
    assert isinstance(value, (int, float))
    return float(value)


def _list(cell: Mapping[str, object], name: str) -> list[float]:
    value = cell[name]
    assert isinstance(value, list)
    return value


def _mean(cell: Mapping[str, object], name: str) -> float:
    return fmean(_list(cell, name))


def table(rows: Sequence[Row], clean: Interval) -> str:
    """The rows as text for a terminal."""
    head = (
        f"{'method':<16} {'x':>4} {'match':>6} {'95 % interval':>14} {'way':>5} {'cos':>5} "
        f"{'PSNR':>5} {'HaarPSI':>7} {'shift':>5} {'skin':>4} {'spot':>4} {'kept: JPEG 75':>13} {'half':>5} {'s':>5}"
    )
    lines = [
        f"unprotected: {100 * clean.value:.0f} % match [{clean.low:.2f}, {clean.high:.2f}]",
        head,
    ]
    for row in rows:
        interval = f"[{row.match.low:.2f}, {row.match.high:.2f}]"
        lines.append(
            f"{row.method:<16} {row.strength:>4g} {row.match.value:>6.2f} {interval:>14} "
            f"{row.way:>5.2f} {row.cosine:>5.2f} {row.psnr:>5.1f} {row.haarpsi:>7.3f} "
            f"{row.shift:>5.1f} {row.skin:>4.1f} {row.spot:>4.1f} {row.kept.get('jpeg75', 0):>13.2f} "
            f"{row.kept.get('half', 0):>5.2f} {row.seconds:>5.1f}"
        )
    return "\n".join(lines)


def page(rows: Sequence[Row], clean: Interval, comparisons: Sequence[Against], title: str) -> str:
    """Plot and table as one HTML page."""
    compared = "".join(
        f"<li>{escape(c.method)} against {escape(c.baseline)}, judged by {escape(c.judge)}: "
        f"{c.cosine.difference} ({'leads' if c.leads else 'no clear lead'})</li>"
        for c in comparisons
    )
    return (
        f"<!doctype html><meta charset='utf-8'><title>{escape(title)}</title>"
        "<style>body{font:15px system-ui;max-width:900px;margin:2em auto}pre{font-size:12px;"
        f"overflow:auto}}</style><h1>{escape(title)}</h1>{plot(rows, clean)}"
        f"<pre>{escape(table(rows, clean))}</pre>"
        f"<h2>At equal likeness, difference of held-out cosines</h2><ul>{compared}</ul>"
    )


def plot(rows: Sequence[Row], clean: Interval) -> str:
    """Match rate over HaarPSI, one line a method, as SVG; down and to the right is better."""
    low = min([row.haarpsi for row in rows] + [0.9])

    def x(value: float) -> float:
        return PAD + (WIDTH - 2 * PAD) * (value - low) / max(1e-6, 1 - low)

    def y(value: float) -> float:
        return HEIGHT - PAD - (HEIGHT - 2 * PAD) * value

    parts = [_axes(x, y, low), _level(y, clean.value)]
    for number, method in enumerate(dict.fromkeys(row.method for row in rows)):
        own = sorted((row for row in rows if row.method == method), key=lambda row: row.haarpsi)
        colour = _COLOURS[number % len(_COLOURS)]
        line = " ".join(f"{x(row.haarpsi):.1f},{y(row.match.value):.1f}" for row in own)
        parts.append(f"<polyline points='{line}' fill='none' stroke='{colour}' stroke-width='2'/>")
        for row in own:
            at = x(row.haarpsi)
            parts.append(
                f"<line x1='{at:.1f}' x2='{at:.1f}' y1='{y(row.match.low):.1f}' "
                f"y2='{y(row.match.high):.1f}' stroke='{colour}' opacity='.35'/>"
                f"<circle cx='{at:.1f}' cy='{y(row.match.value):.1f}' r='4' fill='{colour}'/>"
            )
        parts.append(
            f"<text x='{WIDTH - PAD + 4}' y='{PAD + 16 * number}' fill='{colour}' font-size='12' "
            f"text-anchor='end'>{escape(method)}</text>"
        )
    body = "".join(parts)
    return f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}'>{body}</svg>"


Place = Callable[[float], float]


def _axes(x: Place, y: Place, low: float) -> str:
    marks = [low + (1 - low) * i / 4 for i in range(5)]
    across = "".join(
        f"<text x='{x(m):.1f}' y='{HEIGHT - PAD + 18}' font-size='11' text-anchor='middle'>{m:.3f}</text>"
        for m in marks
    )
    up = "".join(
        f"<text x='{PAD - 8}' y='{y(m):.1f}' font-size='11' text-anchor='end'>{100 * m:.0f} %</text>"
        f"<line x1='{PAD}' x2='{WIDTH - PAD}' y1='{y(m):.1f}' y2='{y(m):.1f}' stroke='#ddd'/>"
        for m in (0, 0.25, 0.5, 0.75, 1)
    )
    names = (
        f"<text x='{WIDTH / 2}' y='{HEIGHT - 12}' font-size='12' text-anchor='middle'>HaarPSI over the face</text>"
        f"<text x='12' y='{PAD - 20}' font-size='12'>still matched by held-out recognisers</text>"
    )
    return across + up + names


def _level(y: Place, value: float) -> str:
    return (
        f"<line x1='{PAD}' x2='{WIDTH - PAD}' y1='{y(value):.1f}' y2='{y(value):.1f}' stroke='#000' "
        "stroke-dasharray='5 4'/>"
        f"<text x='{PAD + 4}' y='{y(value) - 5:.1f}' font-size='11'>unprotected</text>"
    )
