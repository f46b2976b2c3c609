"""Edit controls: what a generation consults at each evaluation. They stack, and cost nothing when off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import FluxGuardError
from .field import Block, ValueTap
from .recipe import Order, Tokens
from .trajectory import Evaluation, Trajectory


class EditControl(Protocol):
    """Acts on attention values, on the velocity, or on both; neither method may change its inputs."""

    def tap(self, at: Evaluation) -> ValueTap | None:
        """What to do with attention values at this evaluation; None where nothing is to be done."""

    def steer(self, at: Evaluation, velocity: Tensor) -> Tensor:
        """The velocity to use instead of ``velocity`` [B, C, H, W]."""


@dataclass(frozen=True, eq=False)
class ValueInjection:
    """Attention-V injection: keep the source's structure in the first intervals (Flux-Guard 3.2).

    Args:
        trajectory: inversion that kept attention values.
        intervals: number of first intervals to act in (paper: 5).
        blocks: which blocks; None means all that the trajectory kept.
        tokens: ``image`` leaves the text's values alone, so prompts may differ in length; ``all`` is the
            published code's choice.
        strength: 0 (off) to 1 (the recorded values alone).
    """

    trajectory: Trajectory
    intervals: int = 5
    blocks: frozenset[Block] | None = None
    tokens: Tokens = "image"
    strength: float = 1.0

    def __post_init__(self) -> None:
        kept = self.trajectory.value_intervals
        if self.intervals > kept and self.strength:
            raise FluxGuardError(
                f"Attention values are to be injected in the first {self.intervals} intervals, but the inversion "
                f"kept them for {kept}.",
                "Raise the inversion's value intervals or lower the injection's.",
            )
        if self.tokens == "all" and self.trajectory.values and not self.trajectory.text_tokens:
            raise FluxGuardError(
                "Injecting all tokens needs the text tokens' values, but the inversion kept image tokens only.",
                "Invert again with tokens 'all', or inject image tokens.",
            )

    def tap(self, at: Evaluation) -> ValueTap | None:
        if at.interval >= self.intervals or not self.strength:
            return None

        def inject(block: Block, values: Tensor, text_tokens: int) -> Tensor | None:
            stored = self.trajectory.value(at.interval, at.stage, block)
            if stored is None or (self.blocks is not None and block not in self.blocks):
                return None
            return self._replace(values, stored.load(values.device).to(values.dtype), text_tokens)

        return inject

    def steer(self, at: Evaluation, velocity: Tensor) -> Tensor:
        return velocity

    def _replace(self, values: Tensor, recorded: Tensor, text_tokens: int) -> Tensor:
        recorded = expand_batch(recorded, values.shape[0])
        if self.tokens == "image":
            recorded = torch.cat(
                [values[:, :text_tokens], recorded[:, self.trajectory.text_tokens :]], 1
            )
        if recorded.shape != values.shape:
            raise FluxGuardError(
                f"Recorded attention values are {list(recorded.shape)}, the model's are {list(values.shape)} "
                "[batch, tokens, width]. With 'all' tokens both prompts need the same length.",
                "Choose 'image', or invert this picture again.",
            )
        return recorded if self.strength == 1 else torch.lerp(values, recorded, self.strength)


@dataclass(frozen=True, eq=False)
class VelocityFusion:
    """Mask-guided velocity fusion: v <- m·v + (1 - m)·v_recorded (Flux-Guard Eq. 10-12).

    Args:
        trajectory: inversion of the picture whose unmasked part is to stay.
        mask: soft edit mask [1 or B, 1, H, W] in [0, 1] at latent resolution; 1 is edited.
        window: first interval and the one after the last; None means all of them. Where the mask is 0 in
            every interval, the result is the source to rounding error. The paper fuses in 5..19 of 25.
        order: ``aligned`` uses the velocity of the same interval; ``released`` repeats the published code,
            which reads the cache backwards (interval N - 1 - i).
    """

    trajectory: Trajectory
    mask: Tensor
    window: tuple[int, int] | None = None
    order: Order = "aligned"

    def __post_init__(self) -> None:
        batch, _, height, width = self.trajectory.source.shape
        expected = [[n, 1, height, width] for n in (1, batch)]
        if list(self.mask.shape) not in expected:
            raise FluxGuardError(
                f"Expected an edit mask {expected[-1]} at latent resolution, got {list(self.mask.shape)}.",
                "Make the mask from the picture that was inverted.",
            )
        if self.mask.min() < 0 or self.mask.max() > 1:
            raise FluxGuardError(
                f"Expected mask values from 0 to 1, got {self.mask.min():.3g} to {self.mask.max():.3g}."
            )

    def tap(self, at: Evaluation) -> ValueTap | None:
        return None

    def steer(self, at: Evaluation, velocity: Tensor) -> Tensor:
        first, end = self.window or (0, self.trajectory.intervals)
        if not first <= at.interval < end:
            return velocity
        interval = at.interval
        if self.order == "released":
            interval = self.trajectory.intervals - 1 - interval
        recorded = self.trajectory.velocity(interval, at.stage, velocity.device)
        return self.blend(velocity, recorded)

    def steer_near(self, sigma: float, velocity: Tensor) -> Tensor:
        """``steer`` between the grid's points, with the record interpolated in σ (approximate)."""
        first, end = self.window or (0, self.trajectory.intervals)
        if not first <= self.trajectory.nearest(sigma).interval < end:
            return velocity
        return self.blend(velocity, self.trajectory.velocity_near(sigma, velocity.device))

    def blend(self, velocity: Tensor, recorded: Tensor) -> Tensor:
        """The fusion itself, on a velocity [n·B, C, H, W] and a record [B, C, H, W]."""
        mask = expand_batch(self.mask.to(velocity), velocity.shape[0])
        return torch.lerp(expand_batch(recorded, velocity.shape[0]).to(velocity), velocity, mask)


def paper_window(intervals: int) -> tuple[int, int]:
    """The published fusion window, 5..19 of 25, scaled to another number of intervals."""
    return round(intervals * 5 / 25), round(intervals * 20 / 25)


def paper_injection(intervals: int, coverage: float) -> int:
    """Intervals of the published injection: 5 of 25, or 3 where the mask covers under a tenth."""
    return max(1, round(intervals * (3 if coverage < 0.1 else 5) / 25))


def expand_batch(tensor: Tensor, batch: int) -> Tensor:
    """Repeat [B, ...] to [batch, ...], branch after branch; B = 1 broadcasts."""
    if tensor.shape[0] in (1, batch):
        return tensor.expand(batch, *tensor.shape[1:])
    return tensor.repeat(batch // tensor.shape[0], *[1] * (tensor.ndim - 1))
