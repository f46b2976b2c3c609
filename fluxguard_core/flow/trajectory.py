"""The trajectory of an inversion: everything that a later edit can look up, found through σ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import FluxGuardError
from .field import Block, Layout
from .recipe import Recipe
from .solvers import solver_named
from .storage import Storage, Stored

GRID_TOLERANCE = 1e-4  # σ passes through float32 and bfloat16-free host code, never coarser
ValueKey = tuple[int, int, Block]  # interval, stage, block


@dataclass(frozen=True)
class Evaluation:
    """One network evaluation of a solver, in generation order: interval 0 is the noisiest."""

    interval: int
    stage: int
    sigma: float


@dataclass(frozen=True, eq=False)
class Trajectory:
    """An inversion, immutable and independent of the sampler that will use it (Flux-Guard 3.2).

    Args:
        sigmas: float64 [N + 1], falling to 0; interval i runs from σ_i (noisier) to σ_{i+1}.
        source: the picture's latent [B, C, H, W] in model space (σ = 0).
        terminal: the latent where the inversion ended (σ = σ_0).
        velocities: for each interval the solver's velocities, stage by stage.
        values: attention values [B, tokens, D] by (interval, stage, block); image tokens, preceded by
            ``text_tokens`` text tokens where those were kept.
        text_tokens: 0, or how many text tokens precede the image tokens in ``values``.
        solver: name of the solver that made it.
        layout: the transformer that made it.
        recipe: what later edits are meant to do, unless they are told otherwise.
    """

    sigmas: Tensor
    source: Tensor
    terminal: Tensor
    velocities: tuple[tuple[Stored, ...], ...]
    values: Mapping[ValueKey, Stored]
    text_tokens: int
    solver: str
    layout: Layout
    recipe: Recipe = field(default_factory=Recipe)

    @property
    def intervals(self) -> int:
        return self.sigmas.numel() - 1

    @property
    def stages(self) -> int:
        return solver_named(self.solver).stages

    @property
    def value_intervals(self) -> int:
        """The number of first intervals whose attention values were kept."""
        return 1 + max((interval for interval, _, _ in self.values), default=-1)

    @property
    def bytes(self) -> int:
        """Bytes at rest; a velocity that two intervals share counts once."""
        return (
            sum(stored.bytes for stored in self._stored())
            + self.source.nbytes
            + self.terminal.nbytes
        )

    def _stored(self) -> Iterator[Stored]:
        unique = {id(stored): stored for stages in self.velocities for stored in stages}
        yield from unique.values()
        yield from self.values.values()

    def locate(self, sigma: float, *, stages: int = 2) -> Evaluation | None:
        """The evaluation at ``sigma``, or None between the grid's points.

        σ_i is interval i, stage 0; the middle of an interval is stage 1. A sampler with one evaluation an
        interval (``stages=1``) gets the stage whose velocity carried the inversion over the whole interval:
        only that one retraces it.

        Raises:
            FluxGuardError: σ lies above the grid.
        """
        sigma = float(sigma)
        if sigma > float(self.sigmas[0]) + GRID_TOLERANCE or sigma < -GRID_TOLERANCE:
            raise FluxGuardError(
                f"σ = {sigma:.4f} lies outside the trajectory's grid (0 to {float(self.sigmas[0]):.4f}).",
                "Sample at the trajectory's own σ values, without added or ancestral noise.",
            )
        starts, middles = self.sigmas[:-1], (self.sigmas[:-1] + self.sigmas[1:]) / 2
        nearest = int((starts - sigma).abs().argmin())
        if abs(float(starts[nearest]) - sigma) <= GRID_TOLERANCE:
            return Evaluation(nearest, self.stages - 1 if stages == 1 else 0, sigma)
        nearest = int((middles - sigma).abs().argmin())
        if stages == 2 and abs(float(middles[nearest]) - sigma) <= GRID_TOLERANCE:
            return Evaluation(nearest, 1, sigma)
        return None

    def check_schedule(self, sigmas: Tensor) -> None:
        """Refuse a run [M + 1] that does not step along the trajectory's σ, all of them or a connected part.

        Another schedule meets the record only between its points, where it is an approximation.
        """
        run = sigmas.detach().cpu().double()
        self.locate(float(run[0]))
        own = self.sigmas.cpu().double()
        first = int((own - run[0]).abs().argmin())
        part = own[first : first + run.numel()]
        if part.shape != run.shape or float((part - run).abs().max()) > GRID_TOLERANCE:
            raise FluxGuardError(
                f"This run has {run.numel() - 1} steps from σ = {float(run[0]):.4f} to {float(run[-1]):.4f}, which are "
                f"not steps of the trajectory ({self.intervals} from {float(own[0]):.4f} to 0).",
                "Sample at the trajectory's own σ values, or invert at those of this run.",
            )

    def same_record(self, other: Trajectory) -> bool:
        """Whether both hold the same inversion, wherever they are kept."""
        return self is other or (
            self.terminal.shape == other.terminal.shape
            and torch.equal(self.terminal.cpu(), other.terminal.cpu())
            and torch.equal(self.sigmas, other.sigmas)
        )

    def nearest(self, sigma: float) -> Evaluation:
        """The evaluation whose σ lies nearest: approximate, for samplers that leave the grid."""
        starts, ends = self.sigmas[:-1], self.sigmas[1:]
        points = torch.stack([starts, (starts + ends) / 2], 1).flatten()
        return Evaluation(*divmod(int((points - float(sigma)).abs().argmin()), 2), float(sigma))

    def velocity(self, interval: int, stage: int, device: torch.device) -> Tensor:
        """The recorded velocity [B, C, H, W]; a stage beyond the solver's own gives its last one."""
        stages = self.velocities[interval]
        return stages[min(stage, len(stages) - 1)].load(device)

    def state(self, step: int, device: torch.device) -> Tensor:
        """The latent [B, C, H, W] that the inversion passed at σ_step; 0 is its end, N the picture.

        Retraced from the picture: exact to rounding, since each interval's last stage carried it.
        """
        latent = self.source.to(device)
        for interval in range(self.intervals - 1, step - 1, -1):
            width = float(self.sigmas[interval] - self.sigmas[interval + 1])
            latent = latent + width * self.velocity(interval, self.stages - 1, device).to(latent)
        return latent

    def velocity_near(self, sigma: float, device: torch.device) -> Tensor:
        """Velocity at any σ of the grid, interpolated between the intervals' middles (approximate)."""
        middles = (self.sigmas[:-1] + self.sigmas[1:]) / 2
        position = float(
            torch.searchsorted(-middles, torch.tensor(-float(sigma), dtype=torch.float64))
        )
        upper = min(max(int(position) - 1, 0), self.intervals - 1)
        lower = min(upper + 1, self.intervals - 1)
        gap = float(middles[upper] - middles[lower])
        weight = min(max(float(middles[upper] - sigma) / gap, 0.0), 1.0) if gap else 0.0
        last = self.stages - 1
        return torch.lerp(
            self.velocity(upper, last, device), self.velocity(lower, last, device), weight
        )

    def value(self, interval: int, stage: int, block: Block) -> Stored | None:
        """Recorded values, from the interval's other stage where the solver skipped this one."""
        return self.values.get((interval, stage, block)) or self.values.get(
            (interval, 1 - stage, block)
        )

    def check_model(self, layout: Layout) -> None:
        """Refuse a network other than the one that made this trajectory."""
        if not layout.matches(self.layout):
            raise FluxGuardError(
                f"This trajectory was made by {describe(self.layout)}, but the model here is {describe(layout)}.",
                "Run the inversion again with this model.",
            )

    def check_latent(self, shape: torch.Size) -> None:
        """Refuse a latent of another size; its batch may be a multiple of the trajectory's."""
        if shape[1:] != self.source.shape[1:] or shape[0] % self.source.shape[0]:
            raise FluxGuardError(
                f"This trajectory holds latents {list(self.source.shape)}, but a latent {list(shape)} came.",
                "Run the inversion again on this picture and size.",
            )


def describe(layout: Layout) -> str:
    """A layout in words, for messages."""
    name = f"{layout.model} {layout.fingerprint}".strip()
    return (
        f"{name} (width {layout.width}, {layout.double_blocks} double and "
        f"{layout.single_blocks} single blocks)"
    )


def estimate_bytes(
    shape: tuple[int, int, int, int],
    *,
    intervals: int,
    solver: str,
    tokens: int,
    width: int,
    value_intervals: int,
    blocks: int,
    velocity_storage: Storage,
    value_storage: Storage,
    dtype: torch.dtype,
) -> int:
    """Bytes that an inversion will keep, before it runs; agrees with ``Trajectory.bytes`` afterwards.

    Args:
        shape: latent [B, C, H, W].
        tokens: tokens kept of each value tensor (image tokens, plus text tokens if those are kept).
        dtype: number format in which the network computes its attention values; latents are float32.
    """
    rule = solver_named(solver)
    latent = torch.Size(shape).numel()
    # A velocity that the next interval reuses is kept once, as it is computed once.
    velocities = rule.evaluations(intervals)
    held = rule.evaluations_in(value_intervals, intervals)
    values = held * blocks * shape[0] * tokens * width
    return (
        velocities * latent * velocity_storage.bytes_per_element(torch.float32)
        + values * value_storage.bytes_per_element(dtype)
        + 2 * latent * torch.float32.itemsize
    )
