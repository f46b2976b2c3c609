"""Treatments at equal closeness: each one's change made larger or smaller until a figure agrees with ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from ...evaluate.likeness import Likeness, face_view, measured
from ...evaluate.quality import eight_bit, psnr, ssim
from .bench import Made

Column = Literal["own", "ssim", "psnr", "likeness"]
COLUMNS: tuple[Column, ...] = get_args(Column)
LABELS: dict[Column, str] = {
    "own": "at its own strength",
    "ssim": "at our SSIM",
    "psnr": "at our PSNR",
    "likeness": "at our HaarPSI and largest shift",
}
LARGEST = 4.0  # how much larger than made a change may become
_HALVINGS = 10


def scaled(made: Made, factor: float) -> Tensor:
    """The picture with ``factor`` times its change, in 8 bits."""
    return eight_bit(made.reference + factor * (made.picture - made.reference))


def matched(made: Made, ours: Made, points: Tensor, column: Column) -> Tensor:
    """The picture with the largest change that is as close to its reference as ours is to ours, by ``column``."""
    if column == "own" or torch.equal(made.picture, made.reference):
        return made.picture
    return scaled(made, _largest(_close_enough(made, ours, points, column)))


def _close_enough(
    made: Made, ours: Made, points: Tensor, column: Column
) -> Callable[[float], bool]:
    if column == "ssim":
        least = ssim(ours.picture, ours.reference)
        return lambda factor: ssim(scaled(made, factor), made.reference) >= least
    if column == "psnr":
        decibels = psnr(ours.picture, ours.reference)
        return lambda factor: psnr(scaled(made, factor), made.reference) >= decibels
    bound = closeness(ours.picture, ours.reference, points)

    def alike(factor: float) -> bool:
        look = closeness(scaled(made, factor), made.reference, points)
        return look.haarpsi >= bound.haarpsi and look.shift <= bound.shift

    return alike


def closeness(picture: Tensor, reference: Tensor, points: Tensor) -> Likeness:
    """Likeness over the face at ``points`` [5, 2]."""
    view = face_view(reference, points)
    return measured(view, view.cut(picture))


def _largest(fits: Callable[[float], bool]) -> float:
    """The largest factor up to ``LARGEST`` that fits, by halving; 0 where none does."""
    low, high = 0.0, LARGEST
    if fits(high):
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
