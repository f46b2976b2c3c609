"""What a change may look like: a budget in the figures of ``evaluate.likeness``, and how a change is brought into it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..evaluate.likeness import FaceView
from ..regions.morphology import gaussian_blur

_CORRECTIONS = 2  # rounds; taking coarse parts out leaves a little of them behind
_OVERSHOOT = 1.3  # the blurred excess is taken off, which a second blur would see only in part
_BISECTIONS = 4
_BESIDE = 0.5  # share of a place's own texture that hides a fine line beside it
# Smoother than skin, as a background out of focus, where the eye sees anything; and what it keeps of a budget.
_FLAT, _LEAST = 3 / 255, 0.3
_ROOM = 0.99  # rounding to 8 bits moves the figures by a hair


@dataclass(frozen=True)
class VisibilityBudget:
    """The least likeness a protected photo may have, in the figures and units of ``Likeness``.

    ``line`` is how far a fine change may go in one pixel where nothing hides it, of 255: thin dark lines on smooth
    skin look like creases however little they weigh in a mean.
    ``spent`` is the share of the shift and skin bounds that single places are corrected to, so that one place
    does not use up the whole picture's budget.
    """

    psnr: float = 38.0
    haarpsi: float = 0.92
    shift: float = 8.0
    skin: float = 2.5
    spot: float = 5.5
    line: float = 2.0
    spent: float = 0.88

    def __post_init__(self) -> None:
        if (
            not 0 < self.haarpsi < 1
            or min(self.psnr, self.shift, self.skin, self.spot, self.line, self.spent) <= 0
        ):
            raise FluxGuardError(
                f"A visibility budget needs bounds above 0, and HaarPSI below 1; got {self}."
            )


@dataclass(frozen=True, eq=False)
class Visibility:
    """A budget over one face. Changes are [1, 3, h, w], of the square that ``view`` looks at."""

    view: FaceView
    budget: VisibilityBudget
    _soft: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_soft", gaussian_blur(self.view.smooth, 2 * self.view.pixel))

    @torch.no_grad()
    def corrected(self, change: Tensor) -> Tensor:
        """The change without what is too much in single places: thin lines, coarse shifts, creases on smooth skin."""
        line = self.budget.line / 255 + _BESIDE * self.view.texture
        fine = self.view.fine(change)
        change = change - (fine - fine.clamp(-line, line))
        limit = self.budget.spent * self.budget.shift / 255
        for _ in range(_CORRECTIONS):
            coarse = self.view.shift(change)
            change = change - _OVERSHOOT * (coarse - coarse.clamp(-limit, limit))
            fine = self.view.fine(change)
            # What the whole change is scaled by anyway needs no correction of its own.
            rough = self._skin(fine) * min(1.0, self._by_psnr(change))
            share = min(1.0, self.budget.spent * self.budget.skin / max(rough, 1e-9))
            change = change - (1 - share) * self._soft * fine
            change = change * self._spared(change)
        return change

    def _spared(self, change: Tensor) -> Tensor:
        """What each place keeps of a change, so that none takes more than its budget [1, 1, h, w]."""
        flat = (self.view.texture / _FLAT).clamp(_LEAST, 1)
        limit = self.budget.spent * self.budget.spot / 255 * flat + self.view.hidden
        return (limit / self.view.local(change).clamp(min=1e-9)).clamp(max=1)

    @torch.no_grad()
    def scale(self, change: Tensor, *, bisections: int = _BISECTIONS) -> float:
        """The largest factor up to 1 that brings a change into the whole budget."""
        shift = 255 * float((self.view.shift(change).abs() * self.view.face).amax())
        rough = self._skin(self.view.fine(change))
        most = _ROOM * min(
            self._by_psnr(change),
            self.budget.shift / max(shift, 1e-9),
            self.budget.skin / max(rough, 1e-9),
        )
        most = min(1.0, most)
        if self._looks_right(most, change):
            return most
        low, high = 0.0, most
        for _ in range(bisections):
            middle = (low + high) / 2
            low, high = (middle, high) if self._looks_right(middle, change) else (low, middle)
        return low

    def _by_psnr(self, change: Tensor) -> float:
        size = float(change.square().mean().sqrt())
        return 10 ** (-self.budget.psnr / 20) / max(size, 1e-9)

    def _skin(self, fine: Tensor) -> float:
        squares = fine.square().mean(1, keepdim=True) * self.view.smooth
        return 255 * float((squares.sum() / self.view.smooth.sum()).sqrt())

    def _looks_right(self, factor: float, change: Tensor) -> bool:
        changed = (self.view.photo + factor * change).clamp(0, 1)
        return float(self.view.haarpsi(changed)) >= self.budget.haarpsi
