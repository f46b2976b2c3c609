"""The report's first page as one picture, for places that show pictures only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..pictures.files import to_pillow
from .html import axis_range, difference, shown
from .report import Pictures, Report
from .similarity import Recognition
from .verdict import state

Colour = tuple[int, int, int]
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

PAPER: Colour = (255, 255, 255)
INK: Colour = (21, 25, 29)
SOFT: Colour = (87, 96, 106)
LINE: Colour = (221, 225, 229)
BEFORE: Colour = (163, 173, 182)
GOOD: Colour = (11, 110, 105)
BAD: Colour = (174, 74, 31)
COLOURS: dict[str, Colour] = {"lost": GOOD, "kept": BAD, "open": SOFT}

WIDTH, MARGIN, GAP, ROW = 1280, 48, 20, 62


def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def wrapped(text: str, font: Font, width: int) -> list[str]:
    """Lines of `text` that are at most `width` pixels wide (a longer word keeps its line)."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def balanced(text: str, font: Font, width: int) -> list[str]:
    """As few lines as `wrapped` needs, of nearly equal length."""
    count = len(wrapped(text, font, width))
    while width > 40 and len(wrapped(text, font, width - 10)) == count:
        width -= 10
    return wrapped(text, font, width)


def _heading(draw: ImageDraw.ImageDraw, report: Report) -> int:
    """Draw verdict, detail and notes; return the y below them."""
    verdict, y = report.verdict, MARGIN
    colour = GOOD if verdict.level == "all" else SOFT if verdict.level == "unknown" else BAD
    text = WIDTH - 2 * MARGIN - 24
    for line in balanced(verdict.headline, _font(36), text):
        draw.text((MARGIN + 24, y), line, INK, _font(36))
        y += 44
    y += 6
    looks = [(f"Likeness: {look.told()}.", INK) for look in report.likeness]
    notes = [(note, INK) for note in report.notes]
    for paragraph, shade in ((verdict.detail, SOFT), *looks, *notes):
        for line in wrapped(paragraph, _font(20), text):
            draw.text((MARGIN + 24, y), line, shade, _font(20))
            y += 28
    draw.rectangle((MARGIN, MARGIN, MARGIN + 4, y - 4), colour)
    return y + 28


def _pictures(sheet: Image.Image, draw: ImageDraw.ImageDraw, pictures: Pictures, y: int) -> int:
    items = (
        ("Original", pictures.source),
        ("Edited", pictures.edited),
        ("Protected", pictures.protected),
        ("Difference x10", difference(pictures)),
    )
    side = (WIDTH - 2 * MARGIN - 3 * GAP) // 4
    height = round(side * pictures.source.shape[-2] / pictures.source.shape[-1])
    for index, (title, tensor) in enumerate(items):
        x = MARGIN + index * (side + GAP)
        tile = to_pillow(shown(tensor)).resize((side, height), Image.Resampling.LANCZOS)
        sheet.paste(tile, (x, y))
        draw.text((x, y + height + 8), title, INK, _font(19))
    return y + height + 56


def _bars(draw: ImageDraw.ImageDraw, results: Sequence[Recognition], y: int) -> int:
    low, high = axis_range(results)
    left, right = MARGIN + 300, WIDTH - MARGIN - 270

    def at(value: float) -> float:
        return left + (right - left) * (min(max(value, low), high) - low) / (high - low)

    for result in results:
        kind, words = state(result)
        draw.line((MARGIN, y, WIDTH - MARGIN, y), LINE)
        draw.text((MARGIN, y + 9), result.name, INK, _font(20))
        role = "attacked" if result.attacked else "held out"
        draw.text((MARGIN, y + 34), role, SOFT if result.attacked else INK, _font(15))
        for value, top, colour in (
            (result.edited, 13, BEFORE),
            (result.protected, 32, COLOURS[kind]),
        ):
            start, end = sorted((at(0.0), at(value)))
            draw.rectangle((start, y + top, max(end, start + 2), y + top + 15), colour)
        if result.threshold is not None:
            middle = at(result.threshold)
            draw.rectangle((middle - 1, y + 7, middle + 1, y + 53), INK)
        x = WIDTH - MARGIN - 245
        draw.text((x, y + 9), words, COLOURS[kind], _font(20))
        limit = "" if result.threshold is None else f"   threshold {result.threshold:.2f}"
        told = f"{result.edited:.2f} to {result.protected:.2f}{limit}"
        draw.text((x, y + 34), told, SOFT, _font(16))
        y += ROW
    draw.line((MARGIN, y, WIDTH - MARGIN, y), LINE)
    return y + 12


def _footer(draw: ImageDraw.ImageDraw, report: Report, y: int) -> int:
    key = (
        "Cosine similarity to the original: grey = edited and unprotected, coloured = protected, "
        "upright line = threshold. "
        f"Protected against edited: SSIM {report.protection.ssim:.3f}. "
        "Measured on this picture and these recognisers only; it guarantees nothing elsewhere."
    )
    for line in wrapped(key, _font(16), WIDTH - 2 * MARGIN):
        draw.text((MARGIN, y), line, SOFT, _font(16))
        y += 23
    return y + MARGIN - 16


def chart(report: Report, pictures: Pictures) -> Tensor:
    """Verdict, pictures and similarity bars as one picture [1,3,H,1280] in [0,1]."""
    ratio = pictures.source.shape[-2] / pictures.source.shape[-1]
    tall = 900 + round(300 * ratio) + ROW * len(report.recognisers)
    sheet = Image.new("RGB", (WIDTH, tall), PAPER)
    draw = ImageDraw.Draw(sheet)
    y = _heading(draw, report)
    y = _pictures(sheet, draw, pictures, y)
    y = _bars(draw, report.recognisers, y)
    y = _footer(draw, report, y)
    pixels = np.asarray(sheet.crop((0, 0, WIDTH, y))).astype(np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
