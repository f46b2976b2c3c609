"""DADFI's training: base perturbations by PGD, then a generator against two discriminators.

What is repaired of the published text: the discriminators play a hinge game, whose generator does not saturate; the
outputs of both pictures are compared with each other, not with the input; disruption itself is a term of the loss;
compression, scaling and blur are in the loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FluxGuardError
from ..protect.views import random_sharing
from .checkpoint import Players, descend, load_game, save_game, under
from .cloak import BOUND, CloakGenerator, PatchDiscriminator, bounded, soft
from .cloak_targets import Asked, Deepfake, Target, masked_error, surrogate

Pictures = Callable[[int, torch.Generator], Tensor]
"""(step, random numbers of this step) -> pictures [B, 3, H, W] in [0, 1]."""

Recognise = Callable[[Tensor, Tensor], Tensor]
"""Cloaked and plain pictures -> how alike the persons are [B], differentiable: what an identity cloak brings down."""


@dataclass(frozen=True)
class CloakPlan:
    """A run.

    Args:
        limit: largest change of a value in [0, 1].
        mode: hard, lim·tanh; soft, the published hinge on the largest change.
        margin: masked error up to which disruption is asked for.
        disrupt, look, hinge, identity: weights of the terms beside the two games'.
        quiet: root mean square of a picture's change in [0, 1] beyond which `loud` weighs it, 10^(-PSNR / 20); None
            lets the limit alone bound it.
        shared: share of the batches that pass compression, scaling or blur on the way to the target.
        base_steps, base_rate: of the PGD of stage A; rate in [0, 1].
        width, opponents: of the generator's and of the discriminators' widest and first layer.
        minutes: the run follows the clock instead of `steps`.
    """

    steps: int
    limit: float = BOUND
    mode: str = "hard"
    rate: float = 1e-4
    margin: float = 0.15
    disrupt: float = 10.0
    look: float = 0.5
    hinge: float = 0.5
    identity: float = 1.0
    quiet: float | None = None
    loud: float = 10000.0
    shared: float = 0.5
    base_steps: int = 10
    base_rate: float = 0.005
    base_keep: float = 0.5
    width: int = 32
    opponents: int = 32
    minutes: float | None = None
    seed: int = 0
    device: str = "cpu"
    save_seconds: float = 60.0
    log_every: int = 50


def _conditions(target: Target, count: int, generator: torch.Generator, like: Tensor) -> Tensor:
    drawn = torch.randint(0, target.conditions, (count,), generator=generator)
    return drawn.to(like.device)


def base_perturbation(target: Target, pictures: Pictures, plan: CloakPlan) -> Tensor:
    """Stage A: one perturbation [1, 3, H, W] for all pictures that breaks a target's outputs.

    PGD on ‖mod(x + adv) - mod(x)‖² from a random start (at 0 the gradient is 0), the batch's step clipped to the
    limit and averaged with what was there, as in CMUA.

    Raises:
        FluxGuardError: the target sends no gradient and no answer that moves.
    """
    generator = torch.Generator().manual_seed(plan.seed)
    shape = pictures(0, torch.Generator().manual_seed(plan.seed)).shape[1:]
    adv = ((torch.rand(1, *shape, generator=generator) * 2 - 1) * plan.limit).to(plan.device)
    alive = False
    for step in range(plan.base_steps):
        plain = pictures(step, torch.Generator().manual_seed(plan.seed + step)).to(plan.device)
        conditions = _conditions(target, len(plain), generator, plain)
        slope = _slope(target, plain, (plain + adv).clamp(0, 1), conditions, generator)
        alive = alive or bool(slope.abs().sum() > 0)
        moved = (adv + plan.base_rate * slope.sum(0, keepdim=True).sign()).clamp(
            -plan.limit, plan.limit
        )
        adv = plan.base_keep * adv + (1 - plan.base_keep) * moved
    if not alive:
        raise FluxGuardError(
            f"{target.name} does not answer to changes of its input, so no cloak can be trained against it.",
            "Use a model that gradients pass through, or one that can be asked.",
        )
    return adv.detach()


def _slope(
    target: Target, plain: Tensor, cloaked: Tensor, conditions: Tensor, generator: torch.Generator
) -> Tensor:
    """The gradient of the outputs' error in the cloaked pictures."""
    clean = target(plain, conditions).detach()

    def error(x: Tensor) -> Tensor:
        return (target(x, conditions) - clean).square().mean((1, 2, 3))

    if isinstance(target, Asked):
        return target.gradient(error, cloaked, generator)
    start = cloaked.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(error(start).sum(), start)
    return slope


@dataclass(eq=False)
class CloakRun:
    """The generator, its two opponents, and the base perturbations, under way."""

    generator: CloakGenerator
    looks: PatchDiscriminator
    breaks: PatchDiscriminator
    optimisers: tuple[torch.optim.Adam, ...]
    bases: dict[str, Tensor]
    step: int = 0
    seconds: float = 0.0
    queries: int = 0

    @classmethod
    def fresh(cls, plan: CloakPlan) -> CloakRun:
        """New networks from the plan's seed."""
        torch.manual_seed(plan.seed)
        nets = (
            CloakGenerator(plan.width),
            PatchDiscriminator(plan.opponents),
            PatchDiscriminator(plan.opponents),
        )
        moved = tuple(net.to(plan.device) for net in nets)
        adam = tuple(
            torch.optim.Adam(net.parameters(), plan.rate, betas=(0.5, 0.999)) for net in moved
        )
        generator, looks, breaks = moved
        assert isinstance(generator, CloakGenerator)
        assert isinstance(looks, PatchDiscriminator) and isinstance(breaks, PatchDiscriminator)
        return cls(generator, looks, breaks, adam, {})

    def save(self, path: Path) -> None:
        """Write everything, replacing the last checkpoint only when this one is complete."""
        notes = {k: getattr(self, k) for k in ("step", "seconds", "queries")}
        bases = {f"base.{k}": v for k, v in self.bases.items()}
        save_game(path, self._players(), notes, bases)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        notes, state = load_game(path, self._players())
        self.step, self.seconds = int(notes["step"]), float(notes["seconds"])
        self.queries = int(notes["queries"])
        device = next(self.generator.parameters()).device
        self.bases = {k: v.to(device) for k, v in under(state, "base.").items()}

    def _players(self) -> Players:
        networks = {"generator": self.generator, "looks": self.looks, "breaks": self.breaks}
        return {
            name: (network, f"adam-{name}", adam)
            for (name, network), adam in zip(networks.items(), self.optimisers, strict=True)
        }


def _opponent_loss(opponent: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Hinge of a discriminator."""
    return F.relu(1 - opponent(real)).mean() + F.relu(1 + opponent(fake)).mean()


def _cloaked(run: CloakRun, plain: Tensor, plan: CloakPlan) -> tuple[Tensor, Tensor]:
    """The cloaked pictures and their change."""
    raw = run.generator(plain)
    change = bounded(raw, plan.limit) if plan.mode == "hard" else soft(raw, plan.limit)
    return (plain + change).clamp(0, 1), change


def train_step(
    run: CloakRun,
    plain: Tensor,
    targets: Sequence[Target],
    plan: CloakPlan,
    generator: torch.Generator,
    recognise: Recognise | None = None,
    look: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """Stage B: both opponents, then the generator, against one target drawn with its conditions."""
    for net in (run.looks, run.breaks):
        net.requires_grad_(True)
    cloaked, change = _cloaked(run, plain, plan)
    descend(run.optimisers[1], _opponent_loss(run.looks, plain, cloaked.detach()))
    figures: dict[str, float] = {}
    loss = plain.new_zeros(())
    if targets:
        target = targets[int(torch.randint(0, len(targets), (), generator=generator))]
        conditions = _conditions(target, len(plain), generator, plain)
        with torch.no_grad():
            clean = target(plain, conditions)
            broken = target((plain + run.bases[target.name]).clamp(0, 1), conditions)
        passed = _shared(cloaked, plan, generator)
        output = target(passed, conditions)
        descend(run.optimisers[2], _opponent_loss(run.breaks, broken, output.detach()))
        for net in (run.looks, run.breaks):
            net.requires_grad_(False)
        error = masked_error(output, clean, plain)
        figures["error"] = float(error.detach().mean())
        if isinstance(target, Deepfake):
            loss = plan.disrupt * F.relu(plan.margin - error).mean() - run.breaks(output).mean()
        else:
            loss = _asked_loss(target, passed, clean, plain, conditions, plan, generator)
    run.looks.requires_grad_(False)
    loss = loss - run.looks(cloaked).mean()
    if recognise is not None:
        alike = recognise(_shared(cloaked, plan, generator), plain)
        loss = loss + plan.identity * alike.mean()
        figures["alike"] = float(alike.detach().mean())
    if plan.mode == "soft":
        largest = change.abs().flatten(1).amax(1)
        loss = loss + plan.hinge * F.relu(largest - plan.limit).mean() / plan.limit
        figures["largest"] = float(largest.detach().max())
    if plan.quiet is not None:
        size = change.square().mean((1, 2, 3)).add(1e-12).sqrt()
        loss = loss + plan.loud * F.relu(size - plan.quiet).mean()
        figures["rms"] = float(size.detach().mean())
    if look is not None:
        seen = look(cloaked, plain)
        loss = loss + plan.look * seen.mean()
        figures["look"] = float(seen.detach().mean())
    descend(run.optimisers[0], loss)
    run.step += 1
    return figures


def _asked_loss(
    target: Asked,
    cloaked: Tensor,
    clean: Tensor,
    plain: Tensor,
    conditions: Tensor,
    plan: CloakPlan,
    generator: torch.Generator,
) -> Tensor:
    def score(x: Tensor) -> Tensor:
        return F.relu(plan.margin - masked_error(target(x, conditions), clean, plain))

    return (
        plan.disrupt
        * surrogate(cloaked, target.gradient(score, cloaked.detach(), generator))
        / len(plain)
    )


def _shared(pictures: Tensor, plan: CloakPlan, generator: torch.Generator) -> Tensor:
    """The pictures as they may look after sharing, or as they are."""
    if float(torch.rand((), generator=generator)) >= plan.shared:
        return pictures
    return random_sharing(generator)(pictures).clamp(0, 1)


def train_cloak(
    run: CloakRun,
    pictures: Pictures,
    targets: Sequence[Target],
    plan: CloakPlan,
    checkpoint: Path,
    log: Callable[[str], None],
    *,
    recognise: Recognise | None = None,
    look: Callable[[Tensor, Tensor], Tensor] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> CloakRun:
    """Both stages to the end of the plan, from the checkpoint where there is one.

    Raises:
        FluxGuardError: nothing to train against, an unknown mode.
    """
    if not targets and recognise is None:
        raise FluxGuardError("There is nothing to train a cloak against.", "Give a target.")
    if plan.mode not in ("hard", "soft"):
        raise FluxGuardError(f"Expected the mode hard or soft, got '{plan.mode}'.")
    if checkpoint.is_file():
        run.load(checkpoint)
    for target in targets:
        if target.name not in run.bases:
            run.bases[target.name] = base_perturbation(target, pictures, plan)
            log(f"base perturbation against {target.name}")
    started = saved = time.monotonic() - run.seconds
    earlier = run.queries
    figures: dict[str, float] = {}
    try:
        while not _ended(run, plan) and not stopped():
            random = torch.Generator().manual_seed(plan.seed * 1_000_003 + run.step)
            plain = pictures(run.step, random).to(plan.device)
            figures |= train_step(run, plain, targets, plan, random, recognise, look)
            run.seconds = time.monotonic() - started
            run.queries = earlier + sum(t.queries for t in targets if isinstance(t, Asked))
            if run.step % plan.log_every == 0:
                told = "  ".join(f"{k} {v:.4f}" for k, v in figures.items())
                log(f"step {run.step}  {run.seconds:.0f} s  {told}")
            if time.monotonic() - saved > plan.save_seconds:
                run.save(checkpoint)
                saved = time.monotonic()
    finally:
        run.save(checkpoint)
    return run


def _ended(run: CloakRun, plan: CloakPlan) -> bool:
    if plan.minutes is not None:
        return run.seconds >= 60 * plan.minutes
    return run.step >= plan.steps
