"""What a SAMPLER does of its own accord, found by trying it on a model whose answer is known.

Names tell nothing of samplers from other packs, nor of options such as eta = 0. A trial does: from an empty
latent, with a model that sees an empty picture in it, a deterministic solver makes an empty picture. Whatever
appears was put there by the sampler. It costs a few operations on 4 x 4 pixels a step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_SIDE = 4


def adds_noise(sampler: Any, guider: Any, noise: Tensor, sigmas: Tensor) -> bool:
    """Whether a SAMPLER adds noise on the way down ``sigmas``; False also where it cannot be tried.

    Args:
        guider: the running guider, which the sampler may ask for the model's own settings.
        noise: [B, C, h, w] of the run, for channels and device.
    """
    return _something_from_nothing(sampler, _Still(guider), noise, sigmas)


def steps_unguided(sampler: Any, guider: Any, noise: Tensor, sigmas: Tensor) -> bool:
    """Whether a deterministic SAMPLER steps along the prediction without guidance, as CFG++ samplers do."""
    return _something_from_nothing(sampler, _Still(guider, unguided=1.0), noise, sigmas)


@dataclass(eq=False)
class _Still:
    """Stands in for the guider: the exact denoiser of standard normal pictures on a rectified flow.

    ``unguided`` is added to what functions after guidance are told of the unconditional prediction.
    """

    guider: Any
    unguided: float = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.guider, name)

    def __call__(
        self, x: Tensor, sigma: Tensor, model_options: dict[str, Any] | None = None, **_: Any
    ) -> Tensor:
        level = sigma.reshape(-1, *[1] * (x.ndim - 1))
        exact = x * (1 - level) / ((1 - level) ** 2 + level**2)
        denoised = exact
        for function in (model_options or {}).get("sampler_post_cfg_function", ()):
            denoised = function(
                {
                    "denoised": denoised,
                    "cond_denoised": exact,
                    "uncond_denoised": exact + self.unguided,
                    "input": x,
                    "sigma": sigma,
                    "cond_scale": 1.0,
                    "model": self.inner_model,
                    "model_options": model_options,
                }
            )
        return denoised


def _something_from_nothing(sampler: Any, model: _Still, noise: Tensor, sigmas: Tensor) -> bool:
    nothing = noise.new_zeros(1, noise.shape[1], _SIDE, _SIDE)
    options = {"model_options": {"transformer_options": {}}, "seed": 0}
    with _random_states_kept(noise.device):  # a draw of the trial must not shift the user's own
        try:
            made = sampler.sample(
                model,
                sigmas.clone(),
                options,
                lambda *_: None,
                nothing,
                nothing.clone(),
                None,
                True,
            )
        except Exception as error:  # a sampler of another pack may need more than a stand-in
            logging.debug("FluxGuard could not try %s: %s", type(sampler).__name__, error)
            return False
    return bool(torch.nan_to_num(made).abs().max() > 1e-6)


@contextmanager
def _random_states_kept(device: torch.device) -> Iterator[None]:
    """Leave the random states of the CPU and of a device as they were, on Macs and Arc too."""
    kind = None if device.type == "cpu" else getattr(torch, device.type, None)
    which = () if device.type == "mps" else (device,)  # there is only one
    cpu = torch.get_rng_state()
    own = None if kind is None or not hasattr(kind, "get_rng_state") else kind.get_rng_state(*which)
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        if own is not None and kind is not None:
            kind.set_rng_state(own, *which)
