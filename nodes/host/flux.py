"""What of the host's wires FluxGuard can read: FLUX.1 MODELs, plain conditionings, latents of pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.model_base
import comfy.model_management as memory
import torch
from torch import Tensor

from ...fluxguard_core.backends.geometry import FLUX
from ...fluxguard_core.errors import FluxGuardError
from ...fluxguard_core.flow import Layout, Trajectory
from .notices import notice

Model = Any  # comfy.model_patcher.ModelPatcher, which is untyped
Conditioning = Any  # list of [tensor, dictionary]

WITH_GUIDANCE = "flux"
_FOREIGN_MODELS = ("Flux2", "LongCatImage", "Chroma")
_UNSUPPORTED = {
    "control": "a ControlNet",
    "reference_latents": "reference latents (Kontext)",
    "area": "an area",
    "mask": "a mask",
    "gligen": "GLIGEN boxes",
    "start_percent": "a timestep range",
    "end_percent": "a timestep range",
}


def flux_layout(model: Model) -> Layout:
    """The shape of a MODEL's transformer; FluxGuardError for anything but FLUX.1."""
    base = model.model
    foreign = [getattr(comfy.model_base, name, ()) for name in _FOREIGN_MODELS]
    network: Any = getattr(base, "diffusion_model", None)
    known = isinstance(base, comfy.model_base.Flux) and not any(
        kind and isinstance(base, kind) for kind in foreign
    )
    if not known or not hasattr(network, "single_blocks") or not hasattr(network, "params"):
        raise FluxGuardError(
            f"Expected a FLUX.1 MODEL, got {type(base).__name__} ({type(network).__name__}). Load flux1-dev, "
            "schnell or a finetune of them with Load Diffusion Model; replaced transformers do not work."
        )
    params = network.params
    if params.in_channels != FLUX.channels:
        raise FluxGuardError(
            f"This FLUX takes {params.in_channels} latent channels, expected {FLUX.channels}: a Fill, Canny or Depth "
            "model. Load flux1-dev or a finetune of it."
        )
    return Layout(
        model=WITH_GUIDANCE if params.guidance_embed else "flux without guidance",
        double_blocks=len(network.double_blocks),
        single_blocks=len(network.single_blocks),
        width=params.hidden_size,
        structure=FLUX.structure_blocks(len(network.single_blocks)),
    )


def with_guidance(
    model: Model, conditioning: Conditioning, role: str, fallback: float
) -> tuple[Conditioning, str]:
    """The conditioning with its own FLUX guidance, else a copy with ``fallback`` and a note that says so."""
    layout = flux_layout(model)
    if layout.model != WITH_GUIDANCE or all("guidance" in options for _, options in conditioning):
        return conditioning, ""
    guided = [[context, {"guidance": fallback, **options}] for context, options in conditioning]
    note = (
        f"The {role} carries no guidance, so {fallback} was set. Choose another with FluxGuidance."
    )
    notice(note)
    return guided, note


def check_conditioning(conditioning: Conditioning, role: str) -> None:
    """Refuse conditionings whose effect could not be retraced."""
    if len(conditioning) != 1:
        raise FluxGuardError(
            f"The {role} holds {len(conditioning)} conditionings, expected one. Describe the picture in a single "
            "prompt, without Conditioning Combine."
        )
    options = conditioning[0][1]
    for name, what in _UNSUPPORTED.items():
        if options.get(name) is not None:
            raise FluxGuardError(
                f"The {role} carries {what}, which cannot be retraced. Connect the plain prompt here, and use the "
                "extra in the stock sampler graph."
            )


def picture_latent(samples: Tensor) -> Tensor:
    """Samples [B, C, h, w] that FLUX can read; a noise mask beside them would corrupt the flow."""
    if samples.shape[1] != FLUX.channels:
        raise FluxGuardError(
            f"Expected a FLUX latent [batch, {FLUX.channels}, height, width], got {list(samples.shape)}. Encode the "
            "picture with VAE Encode and FLUX's VAE (ae.safetensors)."
        )
    if not bool(samples.any()):
        raise FluxGuardError(
            "The latent is empty, so there is nothing to invert. Encode a picture with VAE Encode."
        )
    return samples


def to_model_space(model: Model, samples: Tensor) -> Tensor:
    """Host latent -> what the transformer sees, float32 on its device."""
    return model.model.process_latent_in(samples.to(model.load_device, torch.float32))


def to_latent(model: Model, latent: Tensor) -> dict[str, Any]:
    """Model-space latent -> LATENT."""
    samples = model.model.process_latent_out(latent.detach().float())
    return {"samples": samples.to(memory.intermediate_device())}


def placed(trajectory: Trajectory, device: torch.device) -> Trajectory:
    """The trajectory with its two latents on a device; its records stay where they are."""
    return replace(
        trajectory,
        source=trajectory.source.to(device),
        terminal=trajectory.terminal.to(device),
    )
