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
        """The photo with the corrected change; its gradient passes the correction by."""
        change = self.change(variable)
        correction = self._corrected(change.detach()) - change.detach()
        return (self.photo + change + correction).clamp(0, 1)

    def project(self, variable: Tensor) -> Tensor:
        """Scaled into the whole budget."""
        with torch.no_grad():
            return variable * self.visibility.scale(self._corrected(self.change(variable)))

    def settle(self, variable: Tensor) -> Tensor:
        """What is rounded is the picture, by ``finished``."""
        return variable

    @torch.no_grad()
    def finished(self, variable: Tensor) -> Tensor:
        """The picture as it is stored, on the grid of 1/255."""
        change = self._corrected(self.change(variable))
        factor = self.visibility.scale(change, bisections=10)
        return ((self.photo + factor * change) * 255).round().clamp(0, 255) / 255

    def _corrected(self, change: Tensor) -> Tensor:
        return self.visibility.corrected(change) * (self.region > 0)
