"""The edit controls as patches on a clone of a MODEL.

What a patch needs is found through σ, never through a count of calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...fluxguard_core.backends.compiled import uncompiled
from ...fluxguard_core.errors import FluxGuardError
from ...fluxguard_core.flow import Evaluation, Trajectory, ValueInjection, VelocityFusion
from .evaluation import STAGES, Options, note_sigma, noted, sigma_of, with_attention
from .flux import Model
from .guards import guarded_clone


def inject_values(model: Model, injection: ValueInjection) -> Model:
    """A clone of MODEL whose attention values are replaced where the injection says so."""
    trajectory = injection.trajectory
    patched, key = guarded_clone(model, trajectory, "Attention-V Injection")

    def predict(
        executor: Callable[..., Any], x: Tensor, level: Tensor, options: Options, *args: Any
    ) -> Any:
        options = noted(level, options)
        tap = injection.tap(_evaluation(trajectory, sigma_of(level, options), options))
        if tap is None:
            return executor(x, level, options, *args)
        hits = [0]
        with uncompiled():
            predicted = executor(x, level, with_attention(options, tap, hits), *args)
        if not hits[0]:
            raise FluxGuardError(
                "Attention-V Injection was due at this step, but the MODEL never passed by it. A step-skipping cache "
                "or a replaced transformer is at work on this MODEL: switch it off."
            )
        return predicted

    patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, key, predict)
    return patched


def fuse_velocities(model: Model, fusion: VelocityFusion) -> Model:
    """A clone of MODEL whose velocity is fused with the recorded one outside the mask."""
    trajectory = fusion.trajectory
    patched, key = guarded_clone(model, trajectory, "Velocity Fusion")
    note_sigma(patched, key)

    def fuse(given: dict[str, Any]) -> Tensor:
        x, denoised, options = given["input"], given["denoised"], given["model_options"]
        sigma = sigma_of(given["sigma"], options)
        at = trajectory.locate(sigma, stages=_stages(options))
        velocity = (x - denoised) / sigma
        fused = fusion.steer_near(sigma, velocity) if at is None else fusion.steer(at, velocity)
        return denoised if fused is velocity else x - sigma * fused

    patched.set_model_sampler_post_cfg_function(fuse)
    return patched


def _evaluation(trajectory: Trajectory, sigma: float, options: Options) -> Evaluation:
    at = trajectory.locate(sigma, stages=_stages(options))
    return trajectory.nearest(sigma) if at is None else at


def _stages(options: Options) -> int:
    return int(options.get("transformer_options", {}).get(STAGES, 1))
