"""The edit controls as patches on a clone of a MODEL.

What a patch needs is found through σ, never through a count of calls.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...fluxguard_core.errors import FluxGuardError
from ...fluxguard_core.flow import Evaluation, Trajectory, ValueInjection, VelocityFusion
from .field import STAGES, tapped
from .flux import Model
from .guards import guarded_clone


def inject_values(model: Model, injection: ValueInjection) -> Model:
    """A clone of MODEL whose attention values are replaced where the injection says so."""
    trajectory = injection.trajectory
    patched = guarded_clone(model, trajectory, "Attention-V Injection")
    hits = [0]

    def attention(q: Tensor, k: Tensor, v: Tensor, **given: Any) -> dict[str, Tensor]:
        options = given.get("extra_options") or {}
        tap = injection.tap(_evaluation(trajectory, _sigma(options["sigmas"]), options))
        replaced = None if tap is None else tapped(tap, v, options)
        if replaced is None:
            return {}
        hits[0] += 1
        return {"v": replaced}

    def count(given: dict[str, Any]) -> Tensor:
        options = given["model_options"].get("transformer_options", {})
        due = injection.tap(_evaluation(trajectory, _sigma(given["sigma"]), options)) is not None
        if due and not hits[0]:
            raise FluxGuardError(
                "Attention-V Injection was due at this step, but the MODEL never passed by it. A step-skipping cache "
                "or a replaced transformer is at work on this MODEL: switch it off."
            )
        hits[0] = 0
        return given["denoised"]

    patched.set_model_attn1_patch(attention)
    patched.set_model_sampler_post_cfg_function(count)
    return patched


def fuse_velocities(model: Model, fusion: VelocityFusion) -> Model:
    """A clone of MODEL whose velocity is fused with the recorded one outside the mask."""
    trajectory = fusion.trajectory
    patched = guarded_clone(model, trajectory, "Velocity Fusion")

    def fuse(given: dict[str, Any]) -> Tensor:
        x, denoised, sigma = given["input"], given["denoised"], _sigma(given["sigma"])
        options = given["model_options"].get("transformer_options", {})
        at = trajectory.locate(sigma, stages=options.get(STAGES, 1))
        velocity = (x - denoised) / sigma
        fused = fusion.steer_near(sigma, velocity) if at is None else fusion.steer(at, velocity)
        return denoised if fused is velocity else x - sigma * fused

    patched.set_model_sampler_post_cfg_function(fuse)
    return patched


def _evaluation(trajectory: Trajectory, sigma: float, options: dict[str, Any]) -> Evaluation:
    at = trajectory.locate(sigma, stages=options.get(STAGES, 1))
    return trajectory.nearest(sigma) if at is None else at


def _sigma(sigmas: Any) -> float:
    return float(sigmas.max() if isinstance(sigmas, Tensor) else sigmas)
