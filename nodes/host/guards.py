"""Guards of the edit patches: every run is checked against the trajectory before it starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...fluxguard_core.errors import FluxGuardError
from ...fluxguard_core.flow import Trajectory
from ...fluxguard_core.flow.controls import expand_batch
from ..words import in_nodes_words
from .field import KEY, EngineSampler
from .flux import Model, flux_layout
from .sampler_trial import adds_noise, steps_unguided

_START_TOLERANCE = 1e-2


def edit_patches(model: Model) -> list[str]:
    """Names of FluxGuard's edit patches on a MODEL."""
    return list(model.model_options.get(KEY, ()))


def guarded_clone(model: Model, trajectory: Trajectory, name: str) -> tuple[Model, str]:
    """A clone that checks every run against the trajectory before it starts, and a key for its wrappers."""
    trajectory.check_model(flux_layout(model))
    patched = model.clone()
    names = (*edit_patches(model), name)
    patched.model_options = {**patched.model_options, KEY: names}

    def start(executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        noise, latent, sampler, sigmas = args[:4]
        mask = args[4] if len(args) > 4 else kwargs.get("denoise_mask")
        with in_nodes_words():  # the run may be a stock node's
            _check_run(name, trajectory, noise, sigmas, mask)
            if isinstance(sampler, EngineSampler):
                _check_record(name, trajectory, sampler.trajectory)
            else:
                _check_start(name, model, trajectory, noise, latent, float(sigmas[0]))
            return executor(*args, **kwargs)

    # One key a patch, so that stacked patches keep a guard each.
    key = f"{KEY}.{len(names)}"
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, start)
    patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, key, _sampler_guard(name))
    return patched, key


def _sampler_guard(name: str) -> Callable[..., Any]:
    def sample(
        executor: Any,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if not isinstance(executor.class_obj, EngineSampler):
            _check_sampler(name, executor.class_obj, model_wrap, noise, sigmas)
        # A copy, since the host's UniPC writes into what it is given.
        return executor(model_wrap, sigmas.clone(), extra_args, callback, noise, *args, **kwargs)

    return sample


def _check_run(
    name: str, trajectory: Trajectory, noise: Tensor, sigmas: Tensor, mask: Tensor | None
) -> None:
    trajectory.check_latent(noise.shape)
    try:
        trajectory.check_schedule(sigmas)
    except FluxGuardError as error:
        raise FluxGuardError(
            error.message,
            "Connect SIGMAS of Trajectory Start, or give the same SIGMAS to RF Inversion.",
        ) from error
    if mask is not None:
        raise FluxGuardError(
            f"{name}: the latent carries a noise mask, which works against the recorded trajectory. Use the LATENT "
            "of Trajectory Start, and give the mask to Velocity Fusion."
        )


def _check_record(name: str, trajectory: Trajectory, followed: Trajectory | None) -> None:
    if followed is not None and not followed.same_record(trajectory):
        raise FluxGuardError(
            f"{name} on this MODEL holds another trajectory than the one connected to the refiner, so two pictures "
            "would be mixed. Connect the same TRAJECTORY to both."
        )


def _check_start(
    name: str, model: Model, trajectory: Trajectory, noise: Tensor, latent: Tensor, first: float
) -> None:
    if not math.isclose(first, float(trajectory.sigmas[0]), abs_tol=1e-4):
        return  # the later part of a split schedule starts from a latent of its own
    source = model.model.process_latent_in(latent.float())
    start = first * noise.float() + (1 - first) * source.to(noise)
    expected = expand_batch(trajectory.terminal.to(start), start.shape[0])
    if float((start - expected).norm()) > _START_TOLERANCE * float(expected.norm()):
        raise FluxGuardError(
            f"{name}: this sampling starts from other noise than the inversion ended at, so nothing would be "
            "retraced. Connect NOISE, SIGMAS and LATENT of Trajectory Start to the sampler."
        )


def _check_sampler(name: str, sampler: Any, guider: Any, noise: Tensor, sigmas: Tensor) -> None:
    function = getattr(getattr(sampler, "sampler_function", sampler), "__name__", "")
    called = function.removeprefix("sample_") or type(sampler).__name__
    if adds_noise(sampler, guider, noise, sigmas):
        raise FluxGuardError(
            f"{name}: the sampler '{called}' adds noise on the way, so the recorded velocities do not fit. Use "
            "the SAMPLER of Trajectory Start, or stock euler."
        )
    if steps_unguided(sampler, guider, noise, sigmas):
        raise FluxGuardError(
            f"{name}: the sampler '{called}' (CFG++) steps along the prediction without guidance, which the edit "
            "does not steer. Use the SAMPLER of Trajectory Start, or stock euler."
        )
