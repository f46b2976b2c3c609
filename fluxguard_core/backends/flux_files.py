"""FLUX from single files, offline: transformer and autoencoder of any width, text encoders, LoRAs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..weights.loading import load_tensors
from .flux import DiffusersModel, FluxStack, Prompt, diffusers, layout_of
from .flux_keys import flux_to_diffusers, is_bfl_flux
from .taesd import FLUX_SCALE, FLUX_SHIFT, is_taesd, load_autoencoder_state

_NORM_GROUPS = 32


def from_files(
    transformer: str | Path,
    vae: str | Path,
    encode_prompt: Callable[[str], Prompt],
    *,
    tiny_vae: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> FluxStack:
    """Load a FLUX model from files in Black Forest Labs key names; the shapes decide everything.

    Args:
        vae: FLUX's own autoencoder, or one in the TAESD layout.
        encode_prompt: text encoders, which those files do not hold.
        tiny_vae: TAESD-layout autoencoder for the fast preset.
    """
    network = load_transformer(transformer, dtype).to(device)
    return FluxStack(
        transformer=network,
        vae=load_vae(vae, dtype).to(device),
        encode_prompt=encode_prompt,
        device=torch.device(device),
        layout=layout_of(network),
        tiny_vae=None if tiny_vae is None else load_vae(tiny_vae, dtype).to(device),
    )


def load_transformer(path: str | Path, dtype: torch.dtype = torch.float32) -> DiffusersModel:
    """A FLUX transformer as diffusers' ``FluxTransformer2DModel``, frozen."""
    tensors, _ = load_tensors(path)
    if not is_bfl_flux(tensors):
        raise FluxGuardError(
            f"{Path(path).name} is not a FLUX.1 transformer in Black Forest Labs key names (it starts with "
            f"{_first_keys(tensors)}). Choose a FLUX.1 diffusion model file."
        )
    config, state = flux_to_diffusers(tensors)
    model = diffusers().FluxTransformer2DModel(**config)
    _fill(model, state, Path(path).name)
    return model.to(dtype).eval().requires_grad_(False)


def load_vae(path: str | Path, dtype: torch.dtype = torch.float32) -> DiffusersModel:
    """An autoencoder as diffusers' ``AutoencoderKL`` or, from the TAESD layout, ``AutoencoderTiny``."""
    tensors, _ = load_tensors(path)
    if is_taesd(tensors):
        return load_autoencoder_state(tensors).to(dtype).eval().requires_grad_(False)
    config = vae_config(tensors, Path(path).name)
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    model = diffusers().AutoencoderKL(**config)
    _fill(model, convert_ldm_vae_checkpoint(dict(tensors), config), Path(path).name)
    return model.to(dtype).eval().requires_grad_(False)


def vae_config(state: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """Arguments for diffusers' ``AutoencoderKL``, read from the shapes of Black Forest Labs' keys."""
    prefix = next(
        (
            key.removesuffix("encoder.conv_in.weight")
            for key in state
            if key.endswith("encoder.conv_in.weight")
        ),
        "",
    )
    if f"{prefix}encoder.down.0.block.0.conv1.weight" not in state:
        raise FluxGuardError(
            f"{name} is not a FLUX autoencoder (it starts with {_first_keys(state)}). Choose ae.safetensors, or a "
            "tiny autoencoder in the TAESD layout with 16 latent channels."
        )
    widths, level = [], 0
    while (key := f"{prefix}encoder.down.{level}.block.0.conv1.weight") in state:
        widths.append(state[key].shape[0])
        level += 1
    blocks = 0
    while f"{prefix}encoder.down.0.block.{blocks}.conv1.weight" in state:
        blocks += 1
    quantised = f"{prefix}quant_conv.weight" in state
    return {
        "down_block_types": ("DownEncoderBlock2D",) * level,
        "up_block_types": ("UpDecoderBlock2D",) * level,
        "block_out_channels": tuple(widths),
        "layers_per_block": blocks,
        "latent_channels": state[f"{prefix}decoder.conv_in.weight"].shape[1],
        "norm_num_groups": _NORM_GROUPS,
        "scaling_factor": FLUX_SCALE,
        "shift_factor": FLUX_SHIFT,
        "use_quant_conv": quantised,
        "use_post_quant_conv": quantised,
    }


def text_encoders(
    folder: str | Path, *, dtype: torch.dtype = torch.bfloat16, device: str = "cpu"
) -> Callable[[str], Prompt]:
    """FLUX's CLIP and T5 from a diffusers folder (text_encoder, text_encoder_2 and their tokenizers)."""
    pipeline = (
        diffusers()
        .FluxPipeline.from_pretrained(
            folder, transformer=None, vae=None, torch_dtype=dtype, local_files_only=True
        )
        .to(device)
    )

    @torch.no_grad()
    def encode_prompt(text: str) -> Prompt:
        context, pooled, _ = pipeline.encode_prompt(text, prompt_2=None)
        return Prompt(context, pooled)

    return encode_prompt


def add_lora(stack: FluxStack, path: str | Path, weight: float = 1.0) -> None:
    """Put a LoRA of any format that diffusers reads on the transformer; several stack.

    Raises:
        FluxGuardError: nothing in the file fits the transformer.
    """
    tensors, _ = load_tensors(path)
    loaded = diffusers().FluxPipeline.lora_state_dict(dict(tensors), return_alphas=True)
    state, alphas = loaded[0], loaded[1]
    for_transformer = {k: v for k, v in state.items() if k.startswith("transformer.")}
    if not for_transformer:
        raise FluxGuardError(
            f"{Path(path).name} holds no LoRA for a FLUX transformer (it starts with {_first_keys(tensors)}). "
            "Choose a LoRA made for FLUX.1."
        )
    names = list(getattr(stack.transformer, "peft_config", {}))
    adapter = f"lora{len(names)}"
    try:
        stack.transformer.load_lora_adapter(
            for_transformer, network_alphas=alphas or None, adapter_name=adapter
        )
    except (ValueError, RuntimeError) as error:
        raise FluxGuardError(
            f"{Path(path).name} does not fit this transformer ({str(error).splitlines()[0]}). Choose a LoRA made "
            "for this model."
        ) from error
    weights = [*getattr(stack.transformer, "_fluxguard_lora_weights", []), weight]
    stack.transformer._fluxguard_lora_weights = weights
    stack.transformer.set_adapters([*names, adapter], weights)


def _fill(model: DiffusersModel, state: Mapping[str, Tensor], name: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise FluxGuardError(
            f"{name} does not fit the model that its own shapes describe ({str(error).splitlines()[-1].strip()}). "
            "The file is incomplete or of another kind; download it again."
        ) from error


def _first_keys(state: Mapping[str, Tensor]) -> str:
    return ", ".join(sorted(state)[:3]) or "no tensor at all"
