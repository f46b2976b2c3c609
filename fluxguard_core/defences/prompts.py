"""Prompts that fight back: TDAE's dynamic prompt defence."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from ..protect.engine import Draw, Reading, Term
from .surrogates import PromptedField


@dataclass(eq=False)
class DynamicPrompt:
    """A prompt whose embedding moves, within a radius, to where the defence is weakest (TDAE, Eq. 11-12).

    Args:
        field: the editor at the clean prompt c.
        radius: ε_p, the largest change of any value of the embedding; ``None`` takes a tenth of its root mean square.
        steps: M, sign steps at a time; each of 2.5·ε_p/M, so that the whole radius can be crossed.
        tokens: how many tokens, from the first on, are real; padding never moves. None takes all.
    """

    field: PromptedField
    radius: float | None = None
    steps: int = 5
    tokens: int | None = None
    change: Tensor = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        context = self.field.context
        if self.radius is None:
            self.radius = 0.1 * float(context[:, : self.tokens].float().square().mean().sqrt())
        self.change = torch.zeros_like(context)

    def __call__(self) -> PromptedField:
        """The editor at c + dp."""
        return self.field.at(self.field.context + self.change)

    def harden(self, term: Term, picture: Tensor, draw: Draw) -> None:
        """Move dp to where ``term``, which asks this prompt, protects ``picture`` [B, 3, H, W] least.

        Every step sees the same noise and time, so that only the prompt makes the difference.
        """
        radius = float(self.radius or 0.0)
        state = draw.generator.get_state()
        for _ in range(self.steps):
            again = torch.Generator(draw.generator.device)
            again.set_state(state)
            change = self.change.detach().requires_grad_(True)
            self.change = change
            gained = -term(picture, Draw(draw.views, again)).loss.sum()
            (slope,) = torch.autograd.grad(gained, change)
            moved = change.detach() - 2.5 * radius / self.steps * slope.sign()
            self.change = moved.clamp(-radius, radius)
            if self.tokens is not None:
                self.change[:, self.tokens :] = 0


@dataclass(eq=False)
class Hardened:
    """A term whose prompt is hardened every S readings with gradient.

    Args:
        term: what is descended; may be the flat form of ``plain``.
        plain: what the prompt is hardened against; it asks ``prompt``.
        every: S.
    """

    term: Term
    plain: Term
    prompt: DynamicPrompt
    every: int = 10
    _readings: int = dataclasses.field(default=0, init=False, repr=False)

    @property
    def name(self) -> str:
        return self.term.name

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        """Read a picture [B, 3, H, W]."""
        if torch.is_grad_enabled():
            if self._readings and self._readings % self.every == 0:
                self.prompt.harden(self.plain, picture.detach(), draw)
            self._readings += 1
        return self.term(picture, draw)
