"""How a descent steps: Adam, the sign of the gradient with momentum, or its direction with momentum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(eq=False)
class Adam:
    """Adam (Kingma and Ba 2015), torch's own; its moments outlive a descent unless ``reset`` is called."""

    learning_rate: float = 0.02
    _variable: Tensor | None = field(default=None, init=False, repr=False)
    _rule: torch.optim.Adam | None = field(default=None, init=False, repr=False)

    def step(self, variable: Tensor, gradient: Tensor) -> Tensor:
        """The next variable."""
        if self._variable is None or self._rule is None or self._variable.shape != variable.shape:
            self._variable = torch.zeros_like(variable, requires_grad=True)
            self._rule = torch.optim.Adam([self._variable], lr=self.learning_rate)
        with torch.no_grad():
            self._variable.copy_(variable)
        self._variable.grad = gradient
        self._rule.step()
        return self._variable.detach().clone()

    def reset(self) -> None:
        """Forget the moments."""
        self._variable = self._rule = None


@dataclass(eq=False)
class SignMomentum:
    """Steps of one size along the gradient's sign: I-FGSM, and with momentum MI-FGSM (Dong et al. 2018, Eq. 6-7).

    Args:
        step_size: in units of the variable.
        momentum: share of the earlier direction that is kept; each new gradient counts by its own L1 norm.
        shrink_over: shrink the steps in a straight line to a hundredth over so many; None keeps their size.
    """

    step_size: float = 1 / 255
    momentum: float = 0.0
    shrink_over: int | None = None
    _taken: int = field(default=0, init=False, repr=False)
    _direction: Tensor | None = field(default=None, init=False, repr=False)

    def step(self, variable: Tensor, gradient: Tensor) -> Tensor:
        """The next variable."""
        direction = gradient
        if self.momentum:
            norm = gradient.abs().flatten(1).mean(1).clamp(min=1e-12)
            direction = gradient / norm.reshape(-1, *[1] * (gradient.ndim - 1))
            if self._direction is not None and self._direction.shape == direction.shape:
                direction = self.momentum * self._direction + direction
            self._direction = direction
        return variable - self._size() * direction.sign()

    def reset(self) -> None:
        """Forget the direction, and begin with the longest step again."""
        self._direction, self._taken = None, 0

    def _size(self) -> float:
        share = 1.0
        if self.shrink_over:
            share = max(0.01, 1 - self._taken / self.shrink_over)
        self._taken += 1
        return self.step_size * share


@dataclass(eq=False)
class LengthMomentum:
    """Steps along the gradient with momentum, all of one length: the steepest way inside an L2 budget.

    A sign spends the budget on every value alike; a step in proportion to the gradient spends it where it counts.

    Args:
        step_size: root mean square of a step, in units of the variable.
        momentum: share of the earlier direction that is kept; each new gradient counts by its own length.
        steps: the length falls to 0 along a cosine over so many steps; None keeps it.
        shaped: turns the direction into the way that is gone; None goes along the direction.
    """

    step_size: float = 0.01
    momentum: float = 0.9
    steps: int | None = None
    shaped: Callable[[Tensor], Tensor] | None = None
    _taken: int = field(default=0, init=False, repr=False)
    _direction: Tensor | None = field(default=None, init=False, repr=False)

    def step(self, variable: Tensor, gradient: Tensor) -> Tensor:
        """The next variable."""
        direction = gradient / _length(gradient)
        if self._direction is not None and self._direction.shape == direction.shape:
            direction = self.momentum * self._direction + direction
        self._direction = direction
        way = direction if self.shaped is None else self.shaped(direction)
        size = self._size() * math.sqrt(variable[0].numel())
        return variable - size * way / _length(way)

    def reset(self) -> None:
        """Forget the direction, and begin with the longest step again."""
        self._direction, self._taken = None, 0

    def _size(self) -> float:
        share = 1.0
        if self.steps:
            share = 0.5 * (1 + math.cos(math.pi * min(1.0, self._taken / self.steps)))
        self._taken += 1
        return self.step_size * share


def _length(values: Tensor) -> Tensor:
    """[B, 1, ...], never 0."""
    length = values.flatten(1).norm(dim=1).clamp(min=1e-12)
    return length.reshape(-1, *[1] * (values.ndim - 1))
