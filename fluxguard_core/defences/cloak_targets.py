"""What a cloak is trained against: deepfake models, seen through or only asked, and recognisers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

Fake = Callable[[Tensor, Tensor], Tensor]
"""Pictures [B, 3, H, W] in [0, 1] and the number of a condition for each [B] -> its pictures [B, 3, h, w] in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Deepfake:
    """A model that turns a portrait into another picture.

    Args:
        conditions: how many things it can do (attributes, domains, identities).
        make: differentiable where the model may be seen through.
    """

    name: str
    conditions: int
    make: Fake

    def __call__(self, pictures: Tensor, conditions: Tensor) -> Tensor:
        """Its outputs; gradients pass where the model has them."""
        return self.make(pictures, conditions)


@dataclass(eq=False)
class Asked:
    """A model that can only be asked: gradients by antithetic queries on a low-resolution basis (NES).

    g = 1/(2·s·q)·Σ_j [f(x + s·u_j) - f(x - s·u_j)]·u_j for q random directions u_j of `side` x `side` pixels, enlarged
    to unit mean square.

    Args:
        queries: pictures that the model has been asked for so far.
    """

    model: Deepfake
    pairs: int = 20
    step: float = 0.01
    side: int = 32
    queries: int = field(default=0)

    @property
    def name(self) -> str:
        """The model's."""
        return self.model.name

    @property
    def conditions(self) -> int:
        """The model's."""
        return self.model.conditions

    @torch.no_grad()
    def __call__(self, pictures: Tensor, conditions: Tensor) -> Tensor:
        """Its outputs, without gradients; counted."""
        self.queries += len(pictures)
        return self.model(pictures, conditions)

    @torch.no_grad()
    def gradient(
        self, score: Callable[[Tensor], Tensor], pictures: Tensor, generator: torch.Generator
    ) -> Tensor:
        """An estimate of the gradient [B, 3, H, W] of a score [B] that asks the model once a picture."""
        total = torch.zeros_like(pictures)
        side = (min(self.side, pictures.shape[-2]), min(self.side, pictures.shape[-1]))
        for _ in range(self.pairs):
            small = torch.randn(len(pictures), 3, *side, generator=generator).to(pictures)
            way = F.interpolate(small, pictures.shape[-2:], mode="bilinear")
            way = way / way.square().mean((1, 2, 3), keepdim=True).sqrt()
            ahead = score((pictures + self.step * way).clamp(0, 1))
            behind = score((pictures - self.step * way).clamp(0, 1))
            total += (ahead - behind)[:, None, None, None] * way
        return total / (2 * self.step * self.pairs)


Target = Deepfake | Asked


def surrogate(pictures: Tensor, gradient: Tensor) -> Tensor:
    """<g, x>: a loss whose gradient is the estimate."""
    return (gradient.detach() * pictures).sum()


def masked_error(broken: Tensor, clean: Tensor, source: Tensor | None = None) -> Tensor:
    """Mean squared error [B] of outputs in [-1, 1], where the model changes the picture at all.

    Args:
        broken, clean: outputs for the cloaked and for the plain picture, [B, 3, H, W] in [0, 1].
        source: the plain picture; the mask is where the clean output differs from it by more than .5 summed over the
            channels, as in CMUA. None, another size, or an empty mask: the whole picture.
    """
    error = (2 * (broken - clean)).square().mean(1)
    mask = torch.ones_like(error)
    if source is not None and source.shape == clean.shape:
        changed = ((2 * (clean - source)).abs().sum(1) > 0.5).to(error).detach()
        filled = changed.flatten(1).sum(1) > 0
        mask = torch.where(filled[:, None, None], changed, mask)
    return (error * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)
