"""A space whose pictures keep a visibility budget, whatever varies in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .changes import Change
from .visibility import Visibility


@dataclass(frozen=True, eq=False)
class HeldSpace:
    """The photo's square plus a change within the budget; the variable is the change's own [1, N].

    Args:
        region: nothing changes where it is 0, [1, 1, h, w].
    """

    change: Change
    visibility: Visibility
    region: Tensor

    @property
    def photo(self) -> Tensor:
        """The square that is changed [1, 3, h, w]."""
        return self.visibility.view.photo

    def start(self) -> Tensor:
        """No change."""
        return torch.zeros(1, self.change.length, device=self.photo.device)

    def picture(self, variable: Tensor) -> Tensor:
        """The photo with the change."""
        return (self.photo + self.change(variable)).clamp(0, 1)

    def project(self, variable: Tensor) -> Tensor:
        """Single places corrected, and the whole scaled into the budget."""
        with torch.no_grad():
            change = self.visibility.corrected(self.change(variable)) * (self.region > 0)
            factor = self.visibility.scale(change)
            return self.change.holding(factor * variable, factor * change)

    def settle(self, variable: Tensor) -> Tensor:
        """What is rounded is the picture, by ``finished``."""
        return variable

    @torch.no_grad()
    def finished(self, variable: Tensor) -> Tensor:
        """The picture as it is stored, on the grid of 1/255."""
        change = self.change(variable)
        factor = self.visibility.scale(change, bisections=10)
        return ((self.photo + factor * change) * 255).round().clamp(0, 255) / 255
