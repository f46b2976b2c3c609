"""Shield Against Edits: a picture that prompt-driven editors no longer change as asked (TDAE, arXiv 2512.14341)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..flow import flux_schedule, invert
from ..protect.defended import Defended
from ..protect.engine import (
    Descent,
    DescentSettings,
    Draw,
    OnStep,
    Step,
    Stops,
    Term,
    Weight,
    descend,
)
from ..protect.gradients import gradients
from ..protect.optimisers import SignMomentum
from ..protect.spaces import PixelSpace
from ..protect.views import whole_frame_views
from .flatness import Flat, neighbour_distance
from .kontext import KontextAttentionTerm, KontextEditTerm
from .prompts import DynamicPrompt, Hardened
from .shares import Tile, texture_share, tiles_of
from .surrogates import (
    Encode,
    FlowMatchingTerm,
    LatentTerm,
    RedrawTerm,
    ScoreTerm,
    Surrogate,
    TrajectoryTerm,
    Waypoint,
)

TermName = Literal[
    "latent", "score", "flow matching", "trajectory", "redraw", "kontext edit", "kontext attention"
]
WITH_A_WAY_BACK = frozenset(
    {"flow matching", "trajectory", "redraw", "kontext edit", "kontext attention"}
)
"""Terms whose gradient comes back through the transformer; only they feel a dynamic prompt."""
_OVERLAP = 128


@dataclass(frozen=True)
class EditShield:
    """How a picture is shielded.

    Args:
        terms: what is asked of the editor, with weights; see ``surrogates`` and ``kontext``.
        budget: largest change of a value, in [0, 1].
        steps: of the descent; each shrinks from ``step_size`` to a hundredth of it.
        flat: ask the neighbourhood too (FDM); ``ratio`` is λ/h and ``neighbour`` h as a share of the longest step.
        dynamic: harden the prompt every ``every`` steps by ``hardening`` steps (DPD); needs a term with a way back
            through the transformer.
        intervals: of the inversion that the trajectory term leaves, and ``waypoints`` on it.
        smooth: share of the budget on smooth skin and sky, where a change shows most.
        tile: side of the tiles in which the autoencoder alone is asked about a larger picture.
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
    smooth: float = 1.0
    tile: int = 1024

    @property
    def needs_model(self) -> bool:
        """Whether a transformer is asked, or the autoencoder alone."""
        return any(name != "latent" for name in self.terms)

    @property
    def needs_way_back(self) -> bool:
        """Whether gradients come back through the transformer."""
        return bool(set(self.terms) & WITH_A_WAY_BACK)

    def tiles(self, size: tuple[int, int]) -> list[Tile]:
        """The parts that a picture of (height, width) is worked on in; a transformer sees it whole."""
        if self.needs_model:
            return [Tile(0, 0, *size)]
        return tiles_of(size, self.tile, min(_OVERLAP, self.tile // 4))


EDIT_SHIELDS: dict[str, EditShield] = {
    "fast": EditShield("fast", steps=60),
    "balanced": EditShield("balanced", {"latent": 0.5, "score": 1.0}, flat=False),
    "strong": EditShield("strong", {"redraw": 1.0}, steps=200, dynamic=True),
    "kontext": EditShield(
        "kontext", {"kontext attention": 1.0, "kontext edit": 0.3, "latent": 0.3}, steps=200
    ),
}
"""By cost: the autoencoder alone; the transformer forwards only, as 12 GB and quantised models can; all of TDAE; and
what only an editor with reference latents has."""


def shield_edits(
    picture: Tensor,
    surrogate: Surrogate,
    shield: EditShield,
    *,
    mask: Tensor | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
    stops: Stops = (),
) -> Defended:
    """Shield a picture against edits.

    Args:
        picture: [B, 3, H, W] in [0, 1], on the grid of 1/255.
        surrogate: the model whose edits are to be spoilt, at an edit that somebody may ask for; the dynamic prompt
            starts from that.
        mask: share of the budget that each pixel has, [1 or B, 1, H, W] in [0, 1].
        stops: what else than ``Interrupted`` means the user's wish to stop.
        on_step: progress; may raise ``Interrupted``, which keeps what there is. ``Step.interval`` counts tiles.

    Raises:
        FluxGuardError: a dynamic prompt without a term that it could change.
    """
    if shield.dynamic and not shield.needs_way_back:
        raise FluxGuardError(
            "A dynamic prompt needs a term with a way back through the transformer.",
            "Use the trajectory or the flow matching term, or switch the dynamic prompt off.",
        )
    with gradients():
        source = picture.detach().clone().to(surrogate.device)
        share = texture_share(source, shield.smooth)
        if mask is not None:
            share = share * mask.detach().clone().to(source)
        generator = torch.Generator().manual_seed(seed)
        tiles = shield.tiles((source.shape[-2], source.shape[-1]))
        change, weights = torch.zeros_like(source), torch.zeros_like(source[:1, :1])
        log: list[Step] = []
        interrupted, settled = False, None
        for number, tile in enumerate(tiles):
            part, limits = tile.cut(source), tile.cut(share)
            weight = tile.weight(_OVERLAP if len(tiles) > 1 else 0).to(source)
            tile.cut(weights).add_(weight)
            if interrupted or not bool(limits.any()):
                continue
            told = _counted(on_step, number)
            done = _descended(part, limits, surrogate, shield, generator, told, stops)
            tile.cut(change).add_(weight * (done.variable - part))
            log += [replace(step, interval=number) for step in done.log]
            interrupted = done.interrupted is not None
            settled = done.settled
        space = PixelSpace(source, shield.budget, mask=share)
        finished = space.settle(source + change / weights)
        if len(tiles) > 1:
            settled = _read_again(finished, source, tiles, surrogate, len(log))
    region = (share > 0).to(source)
    return Defended(finished, region, tuple(log), settled, interrupted)


def _counted(on_step: OnStep | None, number: int) -> OnStep | None:
    if on_step is None:
        return None
    return lambda step, picture: on_step(replace(step, interval=number), picture)


def _descended(
    part: Tensor,
    share: Tensor,
    surrogate: Surrogate,
    shield: EditShield,
    generator: torch.Generator,
    on_step: OnStep | None,
    stops: Stops,
) -> Descent:
    terms, weights = _terms(shield, part, surrogate)
    return descend(
        PixelSpace(part, shield.budget, mask=share, generator=generator),
        terms,
        SignMomentum(shield.step_size, shrink_over=shield.steps),
        DescentSettings(steps=shield.steps, keep_best=False),
        draw=lambda: Draw(whole_frame_views(generator), generator),
        weights=weights,
        on_step=on_step,
        stops=stops,
    )


@torch.no_grad()
def _read_again(
    finished: Tensor, source: Tensor, tiles: list[Tile], surrogate: Surrogate, number: int
) -> Step:
    """What the autoencoder sees of the finished picture, tile by tile."""
    distances = []
    for tile in tiles:
        after, before = (surrogate.encode(tile.cut(x)) for x in (finished, source))
        distances.append(float((after - before).square().mean().sqrt()))
    mean = sum(distances) / len(distances)
    return Step(number, {"latent": -mean}, {}, {"latent": {"distance": mean}}, False, 0.0)


def _terms(
    shield: EditShield, source: Tensor, surrogate: Surrogate
) -> tuple[list[Term], dict[str, Weight]]:
    """The shield's terms, flat and hardened where it says so, and their weights."""
    reach = neighbour_distance(shield.budget, source.shape, shield.neighbour)
    dynamic = (
        DynamicPrompt(surrogate.prompted, steps=shield.hardening) if shield.needs_model else None
    )
    encode = surrogate.encode_small if shield.needs_model else surrogate.encode
    with torch.no_grad():
        clean = encode(source)
    terms: list[Term] = []
    for name in shield.terms:
        plain = _term(name, shield, encode, clean, surrogate, dynamic)
        term: Term = Flat(plain, reach, shield.ratio) if shield.flat else plain
        if shield.dynamic and dynamic is not None and name in WITH_A_WAY_BACK:
            term = Hardened(term, plain, dynamic, shield.every)
        terms.append(term)
    weights: dict[str, Weight] = {str(name): weight for name, weight in shield.terms.items()}
    return terms, weights


def _term(
    name: TermName,
    shield: EditShield,
    encode: Encode,
    clean: Tensor,
    surrogate: Surrogate,
    editor: DynamicPrompt | None,
) -> Term:
    if name == "latent" or editor is None:
        return LatentTerm(encode, clean)
    if name == "score":
        return ScoreTerm(encode, editor)
    if name == "flow matching":
        return FlowMatchingTerm(encode, editor)
    if name == "redraw":
        return RedrawTerm(encode, editor, clean, editor.field)
    if name == "kontext edit":
        return KontextEditTerm(encode, editor, clean, editor.field)
    if name == "kontext attention":
        if surrogate.watch_reference is None:
            raise FluxGuardError(
                "Nothing here tells where this model looks.", "Choose the preset strong."
            )
        return KontextAttentionTerm(encode, editor, surrogate.watch_reference)
    return TrajectoryTerm(encode, editor, clean, _waypoints(shield, clean, surrogate))


def _waypoints(shield: EditShield, clean: Tensor, surrogate: Surrogate) -> list[Waypoint]:
    """Points of the clean picture's own inversion nearest to the shield's times, at the clean prompt."""
    tokens = surrogate.tokens_of((clean.shape[-2], clean.shape[-1]))
    plain = surrogate.prompted
    trajectory = invert(
        plain,
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
            velocity = plain(latents[at], grid[at]).float()
        points.append(Waypoint(grid[at], latents[at], velocity))
    return points
