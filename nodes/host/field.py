"""A MODEL with a CONDITIONING as a velocity field of the engine, through wrappers on a clone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import comfy.model_management as memory
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...fluxguard_core.backends.compiled import uncompiled
from ...fluxguard_core.errors import FluxGuardError
from ...fluxguard_core.flow import SOLVERS, Layout, SolverName, Trajectory, ValueTap
from .evaluation import STAGES, noted, with_attention
from .flux import Conditioning, Model, flux_layout

Result = TypeVar("Result")

KEY = "fluxguard"


@dataclass(eq=False)
class _Probe:
    """What the field hears of one evaluation: the raw network output."""

    output: Tensor | None = None
    calls: int = 0

    def network(self, executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.output = executor(*args, **kwargs)
        self.calls += 1
        return self.output


@dataclass(eq=False)
class HostField:
    """Velocity of a MODEL at a CONDITIONING, inside a running guider.

    ``raw`` takes the network's own output (inversion, also at σ = 0); otherwise the velocity is what is
    left after every patch on the MODEL, so that the edit's patches and other packs' have their say.
    """

    layout: Layout
    predict: Callable[..., Tensor]
    options: dict[str, Any]
    probe: _Probe
    raw: bool

    def __call__(self, latent: Tensor, sigma: float, tap: ValueTap | None = None) -> Tensor:
        memory.throw_exception_if_processing_interrupted()
        self.probe.output, self.probe.calls = None, 0
        levels = latent.new_full((latent.shape[0],), sigma)
        options = noted(levels, self.options, sigma)
        if tap is not None:
            options = with_attention(options, tap, [0])
        # A patch is another function each time, for which a compiled network would be compiled anew.
        with uncompiled() if tap is not None else nullcontext():
            denoised = self.predict(latent, levels, model_options=options, seed=None)
        output = self.probe.output
        if self.probe.calls != 1 or output is None:
            raise FluxGuardError(
                f"The transformer ran {self.probe.calls} times where once was expected. A step-skipping cache "
                "(TeaCache, EasyCache ...) or a replaced transformer is at work on this MODEL: switch it off."
            )
        return output.float() if self.raw else (latent - denoised) / sigma


class EngineSampler(comfy.samplers.Sampler):
    """Hands the guider's model to the engine, past the samplers' own noise scaling (0 / 0 at σ = 1).

    `trajectory` is the one that the engine follows; None where it makes one.
    """

    def __init__(
        self, work: Callable[[Any, dict[str, Any]], Tensor], trajectory: Trajectory | None
    ) -> None:
        self.work, self.trajectory = work, trajectory

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
        **_: Any,
    ) -> Tensor:
        return self.work(model_wrap, extra_args["model_options"])


def with_field(
    model: Model,
    conditioning: Conditioning,
    work: Callable[[HostField], Result],
    *,
    shape: torch.Size,
    sigmas: Tensor,
    solver: SolverName,
    follows: Trajectory | None = None,
    raw: bool = False,
) -> Result:
    """Run the engine on a MODEL: the host loads it, and takes it down again afterwards.

    Args:
        work: what to do with the field.
        shape: largest latent batch it will see, for the host's memory estimate.
        follows: the trajectory that the work retraces, which the edit's patches must hold too.
        raw: the field is the bare network.
    """
    layout, probe = flux_layout(model), _Probe()
    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, probe.network)
    results: list[Result] = []

    def run(model_wrap: Any, options: dict[str, Any]) -> Tensor:
        options.setdefault("transformer_options", {})[STAGES] = SOLVERS[solver].stages
        results.append(work(HostField(layout, model_wrap, options, probe, raw)))
        return torch.zeros(shape, device=patched.load_device)

    guider = comfy.samplers.CFGGuider(patched)
    guider.inner_set_conds({"positive": conditioning})
    empty = torch.zeros(shape)
    guider.sample(
        empty, empty, EngineSampler(run, follows), sigmas.float(), disable_pbar=True, seed=0
    )
    return results[0]
