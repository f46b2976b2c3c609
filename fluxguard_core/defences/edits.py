"""Shield Against Edits: a picture that prompt-driven editors no longer change as asked (TDAE, arXiv 2512.14341)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ..backends.flux import FluxStack
from ..errors import FluxGuardError
from ..flow import flux_schedule, invert
from ..protect.defended import Defended
from ..protect.engine import DescentSettings, Draw, OnStep, Term, Weight, descend
from ..protect.gradients import gradients
from ..protect.optimisers import SignMomentum
from ..protect.spaces import PixelSpace
from ..protect.views import whole_frame_views
from .flatness import Flat, neighbour_distance
from .prompts import DynamicPrompt, Hardened
from .surrogates import (
    Editor,
    FlowMatchingTerm,
    LatentTerm,
    ScoreTerm,
    TrajectoryTerm,
    Waypoint,
    encoder,
)

TermName = Literal["latent", "score", "flow matching", "trajectory"]


@dataclass(frozen=True)
class EditShield:
    """How a picture is shielded.

    Args:
        terms: what is asked of the editor, with weights; see ``surrogates``.
        budget: largest change of a value, in [0, 1].
        steps: of the descent; each shrinks from ``step_size`` to a hundredth of it.
        flat: ask the neighbourhood too (FDM); ``ratio`` is λ/h and ``neighbour`` h as a share of the longest step.
        dynamic: harden the prompt every ``every`` steps by ``hardening`` steps (DPD); needs a term with a way back
            through the transformer.
        intervals: of the inversion that the trajectory term leaves, and ``waypoints`` on it.
    """

    name: str
    terms: Mapping[TermName, float] = field(default_factory=lambda: {"latent": 1.0})
    budget: float = 8 / 255
    steps: int = 100
    step_size: float = 2 / 255
    flat: bool = True
    ratio: float = 0.3
    neighbour: float = 0.1
    dynamic: bool = False
    every: int = 10
    hardening: int = 5
    intervals: int = 8
    waypoints: tuple[float, ...] = (0.3, 0.6, 0.9)

    @property
    def needs_model(self) -> bool:
        """Whether a transformer is asked, or the autoencoder alone."""
        return any(name != "latent" for name in self.terms)


EDIT_SHIELDS: dict[str, EditShield] = {
    "fast": EditShield("fast", steps=60),
    "balanced": EditShield("balanced", {"latent": 0.5, "score": 1.0}, flat=False),
    "strong": EditShield("strong", {"trajectory": 1.0, "latent": 0.3}, steps=200, dynamic=True),
}
"""By cost: the autoencoder alone; the transformer forwards only, as 12 GB and quantised models can; all of TDAE."""


def shield_edits(
    picture: Tensor,
    stack: FluxStack,
    shield: EditShield,
    prompt: str = "",
    *,
    mask: Tensor | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> Defended:
    """Shield a picture against edits.

    Args:
        picture: [B, 3, H, W] in [0, 1], on the grid of 1/255.
        stack: the model whose edits are to be spoilt; only its autoencoder where the shield asks for no more.
        prompt: an edit that somebody may ask for; the dynamic prompt starts from it.
        mask: share of the budget that each pixel has, [1 or B, 1, H, W] in [0, 1].
        on_step: progress; may raise ``Interrupted``, which keeps the best so far.

    Raises:
        FluxGuardError: a dynamic prompt without a term that it could change.
    """
    if shield.dynamic and not set(shield.terms) & {"trajectory", "flow matching"}:
        raise FluxGuardError(
            "A dynamic prompt needs a term with a way back through the transformer.",
            "Use the trajectory or the flow matching term, or switch the dynamic prompt off.",
        )
    source = picture.detach().clone().to(stack.device)
    generator = torch.Generator().manual_seed(seed)
    with gradients():
        terms, weights = _terms(shield, source, stack, prompt)
        space = PixelSpace(source, shield.budget, mask=mask, generator=generator)
        done = descend(
            space,
            terms,
            SignMomentum(shield.step_size, shrink_over=shield.steps),
            DescentSettings(steps=shield.steps, keep_best=False),
            draw=lambda: Draw(whole_frame_views(generator), generator),
            weights=weights,
            on_step=on_step,
        )
    region = torch.ones_like(source[:1, :1]) if mask is None else (mask > 0).to(source)
    return Defended(done.variable, region, done.log, done.settled, done.interrupted is not None)


def _terms(
    shield: EditShield, source: Tensor, stack: FluxStack, prompt: str
) -> tuple[list[Term], dict[str, Weight]]:
    """The shield's terms, flat and hardened where it says so, and their weights."""
    reach = neighbour_distance(shield.budget, source.shape, shield.neighbour)
    dynamic = (
        DynamicPrompt(stack.field(prompt, 1.0), steps=shield.hardening)
        if shield.needs_model
        else None
    )
    terms: list[Term] = []
    for name in shield.terms:
        plain = _term(name, shield, source, stack, dynamic)
        term: Term = Flat(plain, reach, shield.ratio) if shield.flat else plain
        if shield.dynamic and dynamic is not None and name in ("trajectory", "flow matching"):
            term = Hardened(term, plain, dynamic, shield.every)
        terms.append(term)
    weights: dict[str, Weight] = {str(name): weight for name, weight in shield.terms.items()}
    return terms, weights


def _term(
    name: TermName,
    shield: EditShield,
    source: Tensor,
    stack: FluxStack,
    dynamic: DynamicPrompt | None,
) -> Term:
    encode = encoder(stack)
    with torch.no_grad():
        clean = encode(source)
    if name == "latent" or dynamic is None:
        return LatentTerm(encode, clean)
    editor: Editor = dynamic
    if name == "score":
        return ScoreTerm(encode, editor)
    if name == "flow matching":
        return FlowMatchingTerm(encode, editor)
    return TrajectoryTerm(encode, editor, clean, _waypoints(shield, clean, stack, dynamic))


def _waypoints(
    shield: EditShield, clean: Tensor, stack: FluxStack, prompt: DynamicPrompt
) -> list[Waypoint]:
    """Points of the clean picture's own inversion nearest to the shield's times, at the clean prompt."""
    tokens = stack.geometry.tokens_of((clean.shape[-2], clean.shape[-1]))
    trajectory = invert(
        prompt.field,
        clean,
        flux_schedule(shield.intervals, tokens),
        solver="euler",
        value_intervals=0,
    )
    grid = trajectory.sigmas.tolist()
    latents = {trajectory.intervals: clean}
    # Euler's record: z at σ_i is z at σ_{i+1} plus the step along the velocity seen there.
    for i in reversed(range(trajectory.intervals)):
        velocity = trajectory.velocity(i, 0, clean.device)
        latents[i] = latents[i + 1] + (grid[i] - grid[i + 1]) * velocity
    points = []
    for time in shield.waypoints:
        at = min(range(len(grid)), key=lambda i: abs(grid[i] - time))
        with torch.no_grad():
            velocity = prompt.field(latents[at], grid[at]).float()
        points.append(Waypoint(grid[at], latents[at], velocity))
    return points


def with_strength(shield: EditShield, budget: float) -> EditShield:
    """The shield with another budget, its steps scaled alike."""
    return replace(shield, budget=budget, step_size=shield.step_size * budget / shield.budget)
