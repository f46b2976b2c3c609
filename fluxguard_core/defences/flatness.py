"""Flat defences carry over: the flatness deviation minimisation of TDAE, around any term."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..protect.engine import Draw, Reading, Term


@dataclass(frozen=True, eq=False)
class Flat:
    """A term that also asks its neighbourhood: FDM (TDAE, Eq. 4-10; arXiv 2512.14341).

    With L the defence's success (minus the term's loss), s the unit vector along its gradient and
    z = L(x + h·s) - L(x), what is minimised is -L + (λ/h)·|z|, by two first-order gradients:

        g = -∇L(x) + (λ/h)·sign(z)·(∇L(x + h·s) - ∇L(x))

    The second gradient sees the same views, noises, times and prompts as the first. Where z is 0, or nothing pulls,
    this is the term's own gradient.

    Args:
        term: what is made flat; its losses are its own, picture by picture.
        reach: h, the distance to the neighbour, an L2 length in the picture's units.
        ratio: λ/h (paper: 0.3).
    """

    term: Term
    reach: float
    ratio: float = 0.3

    @property
    def name(self) -> str:
        return self.term.name

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        """Read a picture [B, 3, H, W]; the loss's gradient is g. Figures: the term's, and ``flatness`` |z| [B]."""
        if not torch.is_grad_enabled():
            return self.term(picture, draw)
        state = draw.generator.get_state()
        here, slope = _loss_and_slope(self.term, picture.detach(), draw)
        length = slope.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        along = torch.where(length > 0, -slope / length.clamp(min=1e-30), torch.zeros_like(slope))
        again = torch.Generator(draw.generator.device)
        again.set_state(state)
        there, further = _loss_and_slope(
            self.term, picture.detach() + self.reach * along, Draw(draw.views, again)
        )
        gained = here.loss - there.loss
        weight = (self.ratio * gained.sign()).reshape(-1, 1, 1, 1)
        pull = slope + weight * (slope - further)
        value = here.loss + self.ratio * gained.abs()
        tilted = (pull * picture).flatten(1).sum(1)
        figures = {**here.figures, "flatness": gained.abs()}
        return Reading(value + tilted - tilted.detach(), here.met, figures)


def neighbour_distance(budget: float, shape: torch.Size, share: float = 0.1) -> float:
    """h as a share of the longest step that an L-inf budget allows: share · budget · sqrt(values of a picture).

    The paper does not give it; below about 0.1 nothing changes.
    """
    return share * budget * float(torch.Size(shape[1:]).numel()) ** 0.5


def _loss_and_slope(term: Term, picture: Tensor, draw: Draw) -> tuple[Reading, Tensor]:
    point = picture.requires_grad_(True)
    reading = term(point, draw)
    (slope,) = torch.autograd.grad(reading.loss.sum(), point)
    return Reading(reading.loss.detach(), reading.met, reading.figures), slope
