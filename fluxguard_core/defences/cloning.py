"""Shield Against Cloning: a face that identity encoders no longer read (DLADiff's second layer, arXiv 2511.19910)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..faces.alignment import similarity_transform
from ..faces.crops import arcface
from ..protect.defended import Defended
from ..protect.engine import Descent, DescentSettings, Draw, OnStep, Reading, Step, Stops, descend
from ..protect.gradients import gradients
from ..protect.identity import differentiable_ensemble
from ..protect.optimisers import SignMomentum
from ..protect.spaces import PixelSpace
from ..protect.views import AlignedViews
from ..recognition.encoder import FaceEncoder
from ..recognition.ensemble import Ensemble, embed_fixed
from ..resampling import bilinear


@dataclass(frozen=True)
class CloneShield:
    """How a face is shielded.

    Args:
        budget: largest change of a value inside the face, in [0, 1] (paper: 11/255).
        step_size: of a sign step (paper: 8e-4).
        steps: at most so many.
        limit: th_s, the similarity below which every attacked encoder has to come (published results: about 0.1).
        spreads: instead of ``limit``, for encoders whose strangers are known: so many of their spreads above the mean
            of strangers, since for one encoder strangers lie at 0.05 and for another at 0.8.
        grid: side of the aligned grid that carries the change; coarser survives recompression better.
        views: random views a step beside the plain one.
        jitter: of the alignment, as a share of the eye distance.
    """

    budget: float = 11 / 255
    step_size: float = 8e-4
    momentum: float = 0.9
    steps: int = 150
    limit: float = 0.1
    spreads: float | None = None
    grid: int = 112
    views: int = 1
    jitter: float = 0.03


@dataclass(frozen=True, eq=False)
class EncoderTerm:
    """Mean similarity to the person, over the attacked encoders and views: 1 - Σ(1 - cos)/n.

    Args:
        references: unit vectors [N, D] of the clean faces, by encoder; N faces of one picture.
        limits: by encoder; the goal is met where every one sees every face below its own, in the first view, the
            plain one.
    """

    ensemble: Ensemble
    references: Mapping[str, Tensor]
    limits: Mapping[str, float]
    name: str = "likeness to the person"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        """Read a picture [1, 3, H, W]; figures ``source NAME`` [N], means over views."""
        seen = self.ensemble.embed_attacked(
            lambda size: torch.cat([view(picture, size) for view in draw.views])
        )
        similar = torch.stack(
            [
                (vectors.unflatten(0, (len(draw.views), -1)) * self.references[encoder.name]).sum(
                    -1
                )
                for vectors, encoder in zip(seen, self.ensemble.attacked, strict=True)
            ]
        )  # encoders, views, faces
        limits = similar.new_tensor([self.limits[e.name] for e in self.ensemble.attacked])
        met = (similar[:, 0] < limits[:, None]).all().reshape(1)
        figures = {
            f"source {encoder.name}": rows.mean(0)
            for encoder, rows in zip(self.ensemble.attacked, similar, strict=True)
        }
        return Reading(self.ensemble.combine(similar.flatten(1).mean(1)).reshape(1), met, figures)


@dataclass(frozen=True, eq=False)
class FaceGridSpace:
    """Changes on aligned grids, warped back onto their faces; the variable is the change [N, 3, G, G].

    A photo's pixel takes its change from the grids by bilinear reading, so no change exceeds the budget.

    Args:
        photo: [1, 3, H, W] in [0, 1].
        landmarks: five points [N, 5, 2] of the faces.
    """

    photo: Tensor
    landmarks: Tensor
    budget: float
    grid: int
    generator: torch.Generator

    def start(self) -> Tensor:
        """A random point of the budget: at the clean face every similarity is at rest."""
        shape = (len(self.landmarks), 3, self.grid, self.grid)
        noise = torch.rand(shape, generator=self.generator).to(self.photo)
        return self.budget * (2 * noise - 1)

    def change(self, variable: Tensor) -> Tensor:
        """The photo's change [1, 3, H, W]; where faces overlap, the first one's."""
        height, width = self.photo.shape[-2:]
        points = self.landmarks.to(self.photo)
        goal = arcface(self.grid).to(points)[None].expand_as(points)
        matrix = similarity_transform(points, goal)
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        pixels = torch.stack([x, y, torch.ones_like(x)], -1).to(points).reshape(1, -1, 3)
        where = (pixels @ matrix.transpose(1, 2) + 0.5) * (2 / self.grid) - 1
        where = where.reshape(-1, height, width, 2)
        spread = bilinear(variable, where)
        covered = (where.abs().amax(-1, keepdim=True).movedim(-1, 1) <= 1).float()
        free = 1 - (covered.cumsum(0) - covered).clamp(max=1)
        return (spread * covered * free).sum(0, keepdim=True)

    def picture(self, variable: Tensor) -> Tensor:
        """The photo with its change."""
        return (self.photo + self.change(variable)).clamp(0, 1)

    def project(self, variable: Tensor) -> Tensor:
        """Into the budget."""
        return variable.clamp(-self.budget, self.budget)

    def settle(self, variable: Tensor) -> Tensor:
        """The picture is what gets rounded, not the grid."""
        return variable


def shield_cloning(
    picture: Tensor,
    landmarks: Tensor,
    ensemble: Ensemble,
    shield: CloneShield | None = None,
    *,
    seed: int = 0,
    on_step: OnStep | None = None,
    stops: Stops = (),
) -> Defended:
    """Shield the faces of one picture against encoders that clone them.

    Args:
        picture: [1, 3, H, W] in [0, 1], on the grid of 1/255.
        landmarks: five points [N, 5, 2] of the faces to shield.
        ensemble: its attacked members are moved; held-out ones never run.
        stops: what else than ``Interrupted`` means the user's wish to stop.
        on_step: progress; may raise ``Interrupted``, which keeps the best so far.

    Returns:
        The picture on the grid of 1/255; ``settled`` is what the encoders see of it.
    """
    shield = shield or CloneShield()
    generator = torch.Generator().manual_seed(seed)
    views = AlignedViews(landmarks, random=shield.views, jitter=shield.jitter)
    with gradients():
        photo = picture.detach().clone()
        term = _encoder_term(ensemble, photo, views, shield)
        space = FaceGridSpace(photo, landmarks.clone(), shield.budget, shield.grid, generator)
        done = _descend(
            space, term, shield, lambda: Draw(views(generator), generator), on_step, stops
        )
        finished, settled = _rounded(space, done, term, Draw((views.plain,), generator))
        region = (space.change(torch.ones_like(done.variable)) > 0).any(1, keepdim=True).float()
    return Defended(finished, region, done.log, settled, done.interrupted is not None)


def _descend(
    space: FaceGridSpace,
    term: EncoderTerm,
    shield: CloneShield,
    draw: Callable[[], Draw],
    on_step: OnStep | None,
    stops: Stops,
) -> Descent:
    settings = DescentSettings(steps=shield.steps, keep_best=True, patience=2)
    optimiser = SignMomentum(shield.step_size, shield.momentum)
    return descend(space, [term], optimiser, settings, draw=draw, on_step=on_step, stops=stops)


def _encoder_term(
    ensemble: Ensemble, photo: Tensor, views: AlignedViews, shield: CloneShield
) -> EncoderTerm:
    ensemble = differentiable_ensemble(ensemble)
    references = {
        encoder.name: embed_fixed(encoder, views.plain(photo, encoder.crop))
        for encoder in ensemble.attacked
    }
    limits = {encoder.name: limit_of(encoder, shield) for encoder in ensemble.attacked}
    return EncoderTerm(ensemble, references, limits)


def limit_of(encoder: FaceEncoder, shield: CloneShield) -> float:
    """The similarity below which an encoder no longer reads the person."""
    known = encoder.strangers
    if shield.spreads is None or known is None:
        return shield.limit
    return known.mean + shield.spreads * known.spread


def _rounded(
    space: FaceGridSpace, done: Descent, term: EncoderTerm, plain: Draw
) -> tuple[Tensor, Step]:
    """The picture as an 8-bit file will hold it, and what the encoders see of that."""
    pixels = PixelSpace(space.photo, space.budget)
    with torch.no_grad():
        picture = pixels.settle(space.picture(done.variable))
        reading = term(picture, plain)
    figures = {name: float(value.mean()) for name, value in reading.figures.items()}
    return picture, Step(
        step=len(done.log),
        losses={term.name: float(reading.loss)},
        weights={},
        figures={term.name: figures},
        met=reading.met is not None and bool(reading.met.all()),
        seconds=0.0,
    )
