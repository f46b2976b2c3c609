"""The shipped miniature, ready to use: autoencoder, transformer, text encoder, and the three as one FLUX."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..backends.flux import FluxStack, Prompt, decode_latent, encode_image, layout_of
from ..backends.flux_keys import flux_to_diffusers
from ..backends.taesd import AutoencoderTiny, load_autoencoder_state
from ..errors import FluxGuardError
from ..weights import load_manifest
from ..weights.loading import load_tensors
from ..worlds import knows
from .text import TextEncoder, text_encoder_from

Part = Literal["vae", "flux", "text"]

_drawn = knows("drawn")
_FOLDERS: dict[Part, str] = {"vae": "vae", "flux": "diffusion_models", "text": "text_encoders"}


def weights_folder() -> Path:
    """Where the shipped files lie."""
    return Path(__file__).parent / "weights"


def weights_path(part: Part) -> Path:
    """The shipped file of a part."""
    return weights_folder() / _FOLDERS[part] / f"fluxguard-mini-{part}.safetensors"


def lora_path(style: str) -> Path:
    """The shipped LoRA of a drawing style."""
    return weights_folder() / "loras" / f"fluxguard-mini-{style}.safetensors"


def _tensors(part: Part, file: Path | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata; the shipped file is held against size and sha256 in the manifest."""
    shipped = weights_path(part)
    if file is None or file == shipped:
        return load_tensors(shipped, expected=load_manifest()[f"fluxguard-mini-{part}"])
    return load_tensors(file)


def load_autoencoder(file: Path | None = None) -> AutoencoderTiny:
    """diffusers' AutoencoderTiny (float32), without the channels that the TAESD layout pads with."""
    return _drawn(load_autoencoder_state(_tensors("vae", file)[0]).requires_grad_(False))


@cache
def _autoencoder() -> AutoencoderTiny:
    return load_autoencoder()


@torch.no_grad()
def reconstruct(picture: Tensor) -> Tensor:
    """A picture [1,3,H,W] through the shipped autoencoder and back, on the CPU."""
    vae = _autoencoder()
    return decode_latent(vae, encode_image(vae, picture)).clamp(0, 1)


def transformer_from(state: Mapping[str, Tensor]) -> Any:
    """diffusers' FluxTransformer2DModel (float32) from Black Forest Labs key names."""
    try:
        from diffusers import FluxTransformer2DModel
    except ImportError as error:
        raise FluxGuardError(
            "This needs the diffusers package.", "Run ‹install diffusers transformers accelerate›."
        ) from error
    config, converted = flux_to_diffusers(state)
    transformer: Any = FluxTransformer2DModel(**config)
    transformer.load_state_dict({k: v.float() for k, v in converted.items()})
    return transformer.eval().requires_grad_(False)


def load_transformer(file: Path | None = None) -> Any:
    """diffusers' FluxTransformer2DModel (float32) of the miniature."""
    return _drawn(transformer_from(_tensors("flux", file)[0]))


def load_text_encoder(file: Path | None = None) -> TextEncoder:
    """Callable: texts -> (context [B,24,128], pooled [B,128])."""
    return text_encoder_from(*_tensors("text", file)).requires_grad_(False)


def load_stack(device: str = "cpu") -> FluxStack:
    """The miniature as the engine's FLUX."""
    transformer, text = load_transformer().to(device), load_text_encoder().to(device)

    @torch.no_grad()
    def encode_prompt(prompt: str) -> Prompt:
        return Prompt(*text(prompt))

    return FluxStack(
        transformer=transformer,
        vae=load_autoencoder().to(device),
        encode_prompt=encode_prompt,
        device=torch.device(device),
        layout=layout_of(transformer),
    )
