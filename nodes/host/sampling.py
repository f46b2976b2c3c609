"""The stock sampler graph: the engine's solvers as a SAMPLER, and the NOISE to start with."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...fluxguard_core.errors import FluxGuardError
from ...fluxguard_core.flow import SolverName, Trajectory
from ...fluxguard_core.flow.controls import expand_batch
from ...fluxguard_core.flow.field import require_finite
from ...fluxguard_core.flow.solvers import solver_named
from .evaluation import STAGES, noted


def flow_sampler(solver: SolverName) -> Any:
    """A SAMPLER that steps with one of the engine's solvers."""
    rule = solver_named(solver)

    @torch.no_grad()
    def sample_flow(
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Any = None,
        disable: bool | None = None,
        **_: Any,
    ) -> Tensor:
        grid = sigmas.cpu().double().tolist()
        if any(low >= high for high, low in pairwise(grid)):
            raise FluxGuardError(
                "This SAMPLER needs σ values that fall. To run a picture towards noise use RF Inversion instead of "
                "flipped sigmas."
            )
        given = {**(extra_args or {})}
        options = {**given.get("model_options", {})}
        options["transformer_options"] = {
            **options.get("transformer_options", {}),
            STAGES: rule.stages,
        }

        def evaluate(z: Tensor, sigma: float, stage: int) -> Tensor:
            level = z.new_full((z.shape[0],), sigma)
            denoised = model(z, level, **{**given, "model_options": noted(level, options, sigma)})
            return require_finite((z - denoised) / sigma, sigma)

        previous: Tensor | None = None
        for i in range(len(grid) - 1):
            start = x
            x, seen = rule.step(evaluate, x, grid[i], grid[i + 1], previous)
            previous = seen[-1]
            if callback is not None:
                estimate = start - grid[i] * seen[-1]
                callback(
                    {
                        "x": x,
                        "i": i,
                        "sigma": sigmas[i],
                        "sigma_hat": sigmas[i],
                        "denoised": estimate,
                    }
                )
        return x

    return comfy.samplers.KSAMPLER(sample_flow)


@dataclass(frozen=True, eq=False)
class TrajectoryNoise:
    """NOISE with which a stock sampler starts exactly where an inversion ended."""

    trajectory: Trajectory
    seed: int = field(default=0)

    def generate_noise(self, latent: dict[str, Any]) -> Tensor:
        """(terminal - (1 - σ_0) · source) / σ_0, which the host scales back."""
        trajectory = self.trajectory
        shape = latent["samples"].shape
        trajectory.check_latent(shape)
        first = float(trajectory.sigmas[0])
        noise = (trajectory.terminal - (1 - first) * trajectory.source) / first
        return expand_batch(noise, shape[0]).cpu().contiguous()
