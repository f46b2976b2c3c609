"""The adaptive adversarial latent refiner (Flux-Guard 3.4): a few descents between ODE steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from .engine import Descent, DescentSettings, Draw, OnStep, Term, Weight, descend
from .gradients import gradients
from .held import HeldLatentSpace
from .identity import IdentityTerm
from .optimisers import Adam
from .perceptual import PerceptualDistance, PerceptualTerm
from .spaces import Decode, LatentSpace
from .views import Views
from .visibility import Visibility
from .weight import AdaptiveWeight

Hold = Callable[[Tensor], Sequence[Visibility]]  # picture [1, 3, H, W] -> the budget over each face


@dataclass(frozen=True)
class RefinerSettings:
    """How the refiner works; the defaults are the published loop.

    Args:
        steps: Adam steps after each attacked interval.
        learning_rate: of Adam, in latent units.
        perceptual_weight: λ, the weight of the perceptual distance.
        weight: the adaptive weight of the identity loss.
        estimate: decode the noisy ``latent`` as published, or its ``x0`` estimate z - σ·v, which looks like
            the picture that will come out.
        keep_moments: keep Adam's moments from interval to interval.
        keep_best: return the best iterate instead of the last one, and stop once the goal is met in
            ``patience`` steps running.
        jitter: seeded noise on the first adversarial latent. The untargeted gradient vanishes at the source.
        max_change: bound on the change of any latent value against the clean branch; None leaves it free.
        seed: of the jitter and of the random views.
    """

    steps: int = 10
    learning_rate: float = 0.02
    perceptual_weight: float = 0.5
    weight: AdaptiveWeight = field(default_factory=AdaptiveWeight)
    estimate: Literal["x0", "latent"] = "latent"
    keep_moments: bool = False
    keep_best: bool = False
    patience: int = 2
    jitter: float = 0.0
    max_change: float | None = None
    seed: int = 0

    @property
    def descent(self) -> DescentSettings:
        """The engine's settings for one interval."""
        return DescentSettings(
            steps=self.steps,
            keep_best=self.keep_best,
            patience=self.patience if self.keep_best else None,
        )


@dataclass(frozen=True, eq=False)
class Branches:
    """A clean and an adversarial latent after the same ODE step, and the velocities that moved them."""

    clean: Tensor
    adversarial: Tensor
    clean_velocity: Tensor
    adversarial_velocity: Tensor
    sigma: float
    interval: int


@dataclass(frozen=True, eq=False)
class Refined:
    """An adversarial latent after its descent."""

    latent: Tensor
    descent: Descent


@dataclass(eq=False)
class Refiner:
    """Moves an adversarial latent off the source's identity while it keeps looking like the clean one.

    It never knows the sampler: it is called after each of the last intervals. What it keeps between the calls
    are the optimiser's moments, the random state, and which decoder it trusts.

    Args:
        decode: differentiable decoder.
        identity: what to move away from or towards.
        perceptual: how different the two branches look.
        views: what the recognisers see.
        region: where it may act, [1 or B, 1, h, w] in [0, 1]; None means everywhere (published).
        check: a second decoder that has the last word on every interval's result; where it disagrees about
            the goal, it replaces ``decode`` from then on (the fast preset's safeguard).
        hold: budgets of what may be seen, from the unprotected picture; None leaves the picture free.
        further: terms beside the published two, and ``weights`` for them by name.
        on_step: called with each log entry and the decoded picture; may raise ``Interrupted``.
    """

    decode: Decode
    identity: IdentityTerm
    perceptual: PerceptualDistance
    views: Views
    settings: RefinerSettings = field(default_factory=RefinerSettings)
    region: Tensor | None = None
    check: Decode | None = None
    hold: Hold | None = None
    further: Sequence[Term] = ()
    weights: dict[str, Weight] = field(default_factory=dict)
    on_step: OnStep | None = None

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.settings.seed)
        self._optimiser = Adam(self.settings.learning_rate)
        self._jitter = self.settings.jitter

    def __call__(self, branches: Branches) -> Refined:
        """Refine ``branches.adversarial``; where the user interrupted, the best so far.

        Where it fails (for lack of memory), the next call begins as this one did.
        """
        draws, moments = self._generator.get_state(), copy.deepcopy(self._optimiser)
        try:
            return self._refined(branches)
        except BaseException:
            self._generator.set_state(draws)
            self._optimiser = moments
            raise

    def _refined(self, branches: Branches) -> Refined:
        with gradients():
            space = self._space(branches, self._jitter)
            reference = self._space(_clean_twice(branches), 0.0)
            with torch.no_grad():
                looks = reference.picture(reference.start())
            if not self.settings.keep_moments:
                self._optimiser.reset()
            descent = descend(
                space if self.hold is None else self._held(space, branches, looks),
                [self.identity, PerceptualTerm(self.perceptual(looks)), *self.further],
                self._optimiser,
                self.settings.descent,
                draw=self._draw,
                weights={
                    "identity": self.settings.weight,
                    "perceptual": self.settings.perceptual_weight,
                    **self.weights,
                },
                on_step=self._numbered(branches.interval),
            )
            self._jitter = 0.0  # once; the later intervals start from where this one ended
            self._trust(space, descent.variable)
            log = tuple(replace(step, interval=branches.interval) for step in descent.log)
            return Refined(space.latent(descent.variable), replace(descent, log=log))

    def _space(self, branches: Branches, jitter: float) -> LatentSpace:
        estimate = self.settings.estimate == "x0"
        base = branches.adversarial.detach().clone()
        return LatentSpace(
            base=base,
            decode=self.decode,
            velocity=branches.adversarial_velocity.detach().clone().to(base) if estimate else None,
            sigma=branches.sigma,
            region=None if self.region is None else self.region.clone().to(base),
            reference=branches.clean.detach().clone(),
            bound=self.settings.max_change,
            jitter=jitter,
            generator=self._generator,
        )

    def _held(self, space: LatentSpace, branches: Branches, looks: Tensor) -> HeldLatentSpace:
        assert self.hold is not None
        return HeldLatentSpace(space, branches.clean.detach().clone(), looks, self.hold(looks))

    def _draw(self) -> Draw:
        return Draw(self.views(self._generator), self._generator)

    def _numbered(self, interval: int) -> OnStep | None:
        told = self.on_step
        if told is None:
            return None
        return lambda step, picture: told(replace(step, interval=interval), picture)

    def _trust(self, space: LatentSpace, variable: Tensor) -> None:
        """Let the full decoder judge; keep it where the cheap one was too hopeful."""
        if self.check is None or self.check is self.decode:
            return
        plain = Draw(
            self.views(torch.Generator().manual_seed(self.settings.seed))[:1], self._generator
        )
        with torch.no_grad():
            cheap, full = (
                self.identity(replace(space, decode=decode).picture(variable), plain).met
                for decode in (self.decode, self.check)
            )
        if cheap is not None and full is not None and bool(cheap.all() & ~full.all()):
            self.decode = self.check


def _clean_twice(branches: Branches) -> Branches:
    """The clean branch in the place of the adversarial one."""
    return replace(
        branches, adversarial=branches.clean, adversarial_velocity=branches.clean_velocity
    )
