"""Spaces whose pictures keep a visibility budget, whatever varies in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..evaluate.likeness import face_view
from .changes import Change
from .spaces import LatentSpace
from .visibility import Visibility, VisibilityBudget


@dataclass(frozen=True, eq=False)
class HeldSpace:
    """The photo's square plus a change within the budget; the variable is the change's own [1, N].

    Args:
        region: nothing changes where it is 0, [1, 1, h, w].
        begun: the change to begin with, [1, 3, h, w], such as a cloak's; None for no change.
    """

    change: Change
    visibility: Visibility
    region: Tensor
    begun: Tensor | None = None

    @property
    def photo(self) -> Tensor:
        """The square that is changed [1, 3, h, w]."""
        return self.visibility.view.photo

    def start(self) -> Tensor:
        """No change, or the one that was begun."""
        none = torch.zeros(1, self.change.length, device=self.photo.device)
        if self.begun is None:
            return none
        return self.change.holding(none, self.begun.to(none) * (self.region > 0))

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


@dataclass(frozen=True, eq=False)
class HeldLatentSpace:
    """A latent space around an unprotected latent, whose pictures stay within a budget around that one's picture.

    Args:
        space: of one picture; its base may lie away from ``clean`` already, after an earlier descent.
        clean: the unprotected latent, and ``looks`` its picture [1, 3, H, W].
        faces: the budget over each face of the picture.
    """

    space: LatentSpace
    clean: Tensor
    looks: Tensor
    faces: Sequence[Visibility]

    def start(self) -> Tensor:
        """As the space starts."""
        return self.space.start()

    def latent(self, variable: Tensor) -> Tensor:
        """The changed latent."""
        return self.space.latent(variable)

    def picture(self, variable: Tensor) -> Tensor:
        """The unprotected picture with the change inside the budget; the gradient passes the correction by."""
        change = self.space.picture(variable) - self.looks
        kept, factor = within_budget(self.faces, change.detach())
        return (self.looks + factor * change + (kept - factor * change.detach())).clamp(0, 1)

    def project(self, variable: Tensor) -> Tensor:
        """The whole distance from the unprotected latent, scaled as its picture has to be."""
        with torch.no_grad():
            _, factor = within_budget(self.faces, self.space.picture(variable) - self.looks)
        if factor == 1:
            return variable
        away = self.space.base - self.clean.to(self.space.base)
        region = self.space.region
        if region is not None:  # outside it base and clean are one
            away = torch.where(region > 0, away / region.clamp(min=1e-3), torch.zeros_like(away))
        return factor * variable + (factor - 1) * away

    def settle(self, variable: Tensor) -> Tensor:
        """Nothing is rounded."""
        return variable


def budgets(picture: Tensor, landmarks: Tensor, budget: VisibilityBudget) -> tuple[Visibility, ...]:
    """A budget over every face [faces, 5, 2] of a picture [1, 3, H, W]."""
    faces = landmarks.reshape(-1, 5, 2)
    return tuple(Visibility(face_view(picture, points), budget) for points in faces)


@torch.no_grad()
def within_budget(faces: Sequence[Visibility], change: Tensor) -> tuple[Tensor, float]:
    """A picture's change [1, 3, H, W] inside the budget of every face, and what it was scaled by."""
    kept = change.clone()
    for face in faces:
        top, bottom, left, right = face.view.box
        kept[..., top:bottom, left:right] = face.corrected(kept[..., top:bottom, left:right])
    factor = min((face.scale(face.view.cut(kept)) for face in faces), default=1.0)
    return factor * kept, factor


def held_picture(
    picture: Tensor, protected: Tensor, landmarks: Tensor, budget: VisibilityBudget
) -> Tensor:
    """A protected picture brought into the budget around the unprotected one [1, 3, H, W]."""
    faces = budgets(picture, landmarks.to(picture), budget)
    return (picture + within_budget(faces, protected - picture)[0]).clamp(0, 1)
