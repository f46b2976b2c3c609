"""The adaptive adversarial latent refiner (Flux-Guard 3.4): a few Adam steps between two ODE steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..command_line import command
from ..errors import FluxGuardError, Interrupted
from .gradients import gradients
from .objective import IdentityObjective, Score
from .perceptual import PerceptualDistance
from .views import Views
from .weight import AdaptiveWeight

Decode = Callable[[Tensor], Tensor]  # model-space latent -> picture [B, 3, H, W] in [0, 1]
_UNMET = 1e3  # any iterate that reaches the goal ranks before any that does not


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


@dataclass(frozen=True)
class RefinerStep:
    """One entry of the log; means over the batch. Similarities are means over views, by recogniser."""

    interval: int
    step: int
    identity_loss: float
    perceptual: float
    weight: float
    source: dict[str, float]
    target: dict[str, float]
    met: bool
    seconds: float


@dataclass(frozen=True, eq=False)
class Branches:
    """A clean and an adversarial latent after the same ODE step, and the velocities that moved them."""

    clean: Tensor
    adversarial: Tensor
    clean_velocity: Tensor
    adversarial_velocity: Tensor
    sigma: float
    interval: int


@dataclass(eq=False)
class Refiner:
    """Moves an adversarial latent off the source's identity while it keeps looking like the clean one.

    It never knows the sampler: it is called after each of the last intervals.

    Args:
        decode: differentiable decoder.
        objective: what to move away from or towards.
        perceptual: how different the two branches look.
        views: what the recognisers see.
        region: where it may act, [1 or B, 1, h, w] in [0, 1]; None means everywhere (published).
        check: a second decoder that has the last word on every interval's result; where it disagrees about
            the goal, it replaces ``decode`` from then on (the fast preset's safeguard).
        on_step: called with each log entry and the decoded picture; may raise ``Interrupted``.
    """

    decode: Decode
    objective: IdentityObjective
    perceptual: PerceptualDistance
    views: Views
    settings: RefinerSettings = field(default_factory=RefinerSettings)
    region: Tensor | None = None
    check: Decode | None = None
    on_step: Callable[[RefinerStep, Tensor], None] | None = None
    log: list[RefinerStep] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.settings.seed)
        self._delta: Tensor | None = None
        self._optimiser: torch.optim.Adam | None = None
        self._interrupted: Interrupted | None = None

    def __call__(self, branches: Branches) -> Tensor:
        """Refine ``branches.adversarial`` and return it.

        Raises:
            Interrupted: after the best iterate so far has been put into ``interrupted_result``.
        """
        with gradients():
            result = self._refine(branches)
            self._verify(branches, result)
        if self._interrupted is not None:
            self.interrupted_result = result
            raise self._interrupted
        return result

    interrupted_result: Tensor | None = field(default=None, init=False)

    def _refine(self, branches: Branches) -> Tensor:
        settings = self.settings
        base, clean = branches.adversarial.detach().clone(), branches.clean.detach().clone()
        region = None if self.region is None else self.region.clone().to(base)
        if settings.jitter and not self.log:
            noise = settings.jitter * torch.randn(base.shape, generator=self._generator).to(base)
            base = base + (noise if region is None else region * noise)
        delta, optimiser = self._variables(base)
        with torch.no_grad():
            reference = self._picture(clean, branches.clean_velocity, branches.sigma)
        distance = self.perceptual(reference)
        best, best_cost, met_in_a_row = base, base.new_full((base.shape[0],), torch.inf), 0
        for step in range(settings.steps + settings.keep_best):
            started = time.perf_counter()
            latent = self._bounded(base, clean, delta, region)
            picture = self._picture(latent, branches.adversarial_velocity, branches.sigma)
            score = self.objective(picture, self.views(self._generator))
            perceptual = distance(picture)
            weight = settings.weight(perceptual)
            met = score.loss.new_zeros(score.loss.shape, dtype=torch.bool)
            if settings.keep_best:
                met = self.objective.met(score)
                cost = torch.where(met, perceptual, _UNMET + score.loss).detach()
                better = (cost < best_cost)[:, None, None, None]
                best = torch.where(better, latent.detach(), best)
                best_cost = torch.minimum(cost, best_cost)
            met_in_a_row = met_in_a_row + 1 if bool(met.all()) else 0
            last = step == settings.steps or met_in_a_row >= settings.patience
            if not last:
                loss = (weight * score.loss + settings.perceptual_weight * perceptual).sum()
                self._descend(loss, delta, optimiser)
            entry = _entry(branches.interval, step, score, perceptual, weight, met, self._names())
            self._record(entry, picture, time.perf_counter() - started)
            if last or self._interrupted is not None:
                break
        if settings.keep_best:
            return best
        return self._bounded(base, clean, delta, region).detach()

    def _variables(self, base: Tensor) -> tuple[Tensor, torch.optim.Adam]:
        if self._delta is None or self._optimiser is None or not self.settings.keep_moments:
            self._delta = torch.zeros_like(base, dtype=torch.float32, requires_grad=True)
            self._optimiser = torch.optim.Adam([self._delta], lr=self.settings.learning_rate)
        with torch.no_grad():
            self._delta.zero_()
        return self._delta, self._optimiser

    def _bounded(self, base: Tensor, clean: Tensor, delta: Tensor, region: Tensor | None) -> Tensor:
        latent = base + (delta if region is None else region * delta)
        limit = self.settings.max_change
        return latent if limit is None else clean + (latent - clean).clamp(-limit, limit)

    def _picture(self, latent: Tensor, velocity: Tensor, sigma: float) -> Tensor:
        if self.settings.estimate == "x0":
            latent = latent - sigma * velocity.detach().clone().to(latent)
        return self.decode(latent)

    @staticmethod
    def _descend(loss: Tensor, delta: Tensor, optimiser: torch.optim.Adam) -> None:
        if not loss.isfinite():
            raise FluxGuardError(
                "The protection's loss became NaN or infinite. Decode in float32, and check the recogniser files "
                f"with {command('models verify')}."
            )
        (delta.grad,) = torch.autograd.grad(loss, delta)
        optimiser.step()

    def _names(self) -> list[str]:
        return [encoder.name for encoder in self.objective.ensemble.attacked]

    def _record(self, entry: RefinerStep, picture: Tensor, seconds: float) -> None:
        entry = RefinerStep(**{**entry.__dict__, "seconds": seconds})
        self.log.append(entry)
        try:
            if self.on_step is not None:
                self.on_step(entry, picture.detach())
        except Interrupted as interruption:
            self._interrupted = interruption

    def _verify(self, branches: Branches, result: Tensor) -> None:
        """Let the full decoder judge; keep it where the cheap one was too hopeful."""
        if self.check is None or self.check is self.decode:
            return
        cheap, full = self.decode, self.check
        with torch.no_grad():
            views = self.views(torch.Generator().manual_seed(self.settings.seed))[:1]
            verdicts = []
            for self.decode in (cheap, full):
                picture = self._picture(result, branches.adversarial_velocity, branches.sigma)
                verdicts.append(self.objective.met(self.objective(picture, views)).all())
        self.decode = full if bool(verdicts[0] & ~verdicts[1]) else cheap


def _entry(
    interval: int,
    step: int,
    score: Score,
    perceptual: Tensor,
    weight: Tensor,
    met: Tensor,
    names: list[str],
) -> RefinerStep:
    def by_name(similarity: Tensor | None) -> dict[str, float]:
        if similarity is None:
            return {}
        return dict(zip(names, similarity.detach().mean((0, 2)).tolist(), strict=True))

    return RefinerStep(
        interval=interval,
        step=step,
        identity_loss=float(score.loss.detach().mean()),
        perceptual=float(perceptual.detach().mean()),
        weight=float(weight.mean()),
        source=by_name(score.source),
        target=by_name(score.target),
        met=bool(met.all()),
        seconds=0.0,
    )
