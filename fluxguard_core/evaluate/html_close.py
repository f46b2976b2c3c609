"""What cosines do not show: the pictures at full size where the change is largest, and whether protected pictures lead to each other."""

from __future__ import annotations

import base64
from html import escape

from torch import Tensor

from ..pictures.files import png_bytes
from ..regions.morphology import gaussian_blur
from .likeness import heat_picture
from .report import Pictures, Report

SIDE = 320
"""Largest side of what is shown at full size, in the picture's own pixels."""


def closest_look(pictures: Pictures, side: int = SIDE) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of the square around the place that the protection changed most."""
    change = (pictures.protected - pictures.edited).abs().mean(1, keepdim=True)
    height, width = change.shape[-2:]
    tall, wide = min(side, height), min(side, width)
    blurred = gaussian_blur(change, max(1.0, side / 24))
    row, column = divmod(int(blurred.flatten().argmax()), width)
    top = min(max(row - tall // 2, 0), height - tall)
    left = min(max(column - wide // 2, 0), width - wide)
    return top, top + tall, left, left + wide


def full_size(pictures: Pictures) -> str:
    """Original, unprotected, protected, their difference and where it lies, one pixel of the file a pixel of the page."""
    top, bottom, left, right = closest_look(pictures)

    def cut(picture: Tensor) -> Tensor:
        return picture[..., top:bottom, left:right]

    difference = (pictures.protected - pictures.edited + 0.5).clamp(0, 1)
    heat = heat_picture(pictures.edited, pictures.protected)
    items = [
        ("Original", "what went in", pictures.source),
        ("Unprotected", "before protection", pictures.edited),
        ("Protected", "to publish", pictures.protected),
        ("Difference", "grey is no change, at its own strength", difference),
        ("Where it is seen", "the redder, the more", heat),
    ]
    figures = "".join(_at_full_size(cut(picture), title, note) for title, note, picture in items)
    return (
        "<section><h2>At full size, where the protection changed most</h2>"
        '<p class="lead">One pixel of the picture is one pixel here (at a zoom of 100 %): look for what friends '
        f'would notice.</p><div class="full">{figures}</div></section>'
    )


def links(report: Report) -> str:
    """Whether the person's protected pictures lead to each other, by recogniser; nothing where one was given."""
    if not report.links:
        return ""
    rows = []
    for result in report.recognisers:
        if result.name not in report.links:
            continue
        cosine = report.links[result.name]
        matches = result.matches(cosine)
        word = {None: "", True: " match", False: " no match"}[matches]
        kind = {None: "", True: ' class="bad"', False: ' class="good"'}[matches]
        rows.append(
            f'<tr><th scope="row">{escape(result.name)}<span class="role">{result.role}</span></th>'
            f'<td class="value"><span{kind}>{cosine:.3f}{word}</span></td></tr>'
        )
    return (
        "<section><h2>Do the protected pictures lead to each other?</h2>"
        '<p class="lead">Mean similarity among the protected pictures of the person that were given. A match links '
        "them, even where none of them leads to the original.</p>"
        f'<div class="wide"><table><tbody>{"".join(rows)}</tbody></table></div></section>'
    )


def _at_full_size(picture: Tensor, title: str, note: str) -> str:
    data = base64.b64encode(png_bytes(picture)).decode()
    height, width = picture.shape[-2:]
    return (
        f'<figure><img src="data:image/png;base64,{data}" width="{width}" height="{height}" '
        f'alt="{escape(title)}, at full size"><figcaption>{escape(title)}<span>{escape(note)}</span>'
        "</figcaption></figure>"
    )
