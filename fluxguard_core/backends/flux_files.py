"""FLUX from single files, offline: transformer and autoencoder of any width, text encoders, LoRAs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..weights.loading import contents_of, load_tensors
from ..weights.world import world_of_file
from ..worlds import knows
from .flux import DiffusersModel, FluxStack, PipelineWords, Prompt, cast, diffusers, layout_of
from .flux_folder import text_pipeline
from .flux_keys import flux_to_diffusers, without_prefix
from .geometry import geometry_of
from .model_kinds import first_keys, require_autoencoder, require_transformer
from .scaled import without_scales
from .taesd import FLUX_SCALE, FLUX_SHIFT, is_taesd, load_autoencoder_state
from .tiny_halves import with_other_half

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
    autoencoder = load_vae(vae, dtype).to(device)
    require_same_latent(network, autoencoder, Path(vae).name)
    return FluxStack(
        transformer=network,
        vae=autoencoder,
        encode_prompt=encode_prompt,
        device=torch.device(device),
        layout=layout_of(network),
        geometry=geometry_of(autoencoder),
        tiny_vae=None if tiny_vae is None else load_vae(tiny_vae, dtype).to(device),
    )


def load_transformer(path: str | Path, dtype: torch.dtype = torch.float32) -> DiffusersModel:
    """A FLUX transformer as diffusers' ``FluxTransformer2DModel``, frozen."""
    name = Path(path).name
    require_transformer(contents_of(path), name)
    tensors, _ = load_tensors(path)
    config, state = flux_to_diffusers(without_scales(without_prefix(tensors), name))
    with torch.device(
        "meta"
    ):  # the file's own tensors become the weights: no second copy in float32
        model = diffusers().FluxTransformer2DModel(**config)
    _fill(model, state, name, assign=True)
    return knows(world_of_file(path))(cast(model, dtype))


def load_vae(path: str | Path, dtype: torch.dtype = torch.float32) -> DiffusersModel:
    """An autoencoder as diffusers' ``AutoencoderKL`` or, from the TAESD layout, ``AutoencoderTiny``; frozen.

    Args:
        path: for a tiny autoencoder in two files, either of them: the other lies beside it.
        dtype: of the weights; in float16 FLUX's decoder overflows, so float32 is used instead.
    """
    dtype = torch.float32 if dtype == torch.float16 else dtype
    name = Path(path).name
    require_autoencoder(contents_of(path), name)
    tensors = with_other_half(load_tensors(path)[0], Path(path))
    if is_taesd(tensors):
        return knows(world_of_file(path))(cast(load_autoencoder_state(tensors), dtype))
    config = vae_config(tensors, name)
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    model = diffusers().AutoencoderKL(**config)
    try:
        state = convert_ldm_vae_checkpoint(dict(tensors), config)
    except (KeyError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        raise FluxGuardError(
            f"{name} is an incomplete FLUX autoencoder ({type(error).__name__}: {error}).",
            "Download it again.",
        ) from error
    _fill(model, state, name)
    return cast(model, dtype)


def require_same_latent(transformer: DiffusersModel, vae: DiffusersModel, name: str) -> None:
    """FluxGuardError unless the autoencoder's latent is the one that the transformer takes."""
    channels, taken = vae.config.latent_channels, transformer.config.in_channels // 4
    if channels != taken:
        raise FluxGuardError(
            f"{name} has a latent of {channels} channels, the transformer takes {taken}.",
            "Choose the autoencoder that belongs to the transformer: ae.safetensors for FLUX.1.",
        )


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
    entrance = state.get(f"{prefix}decoder.conv_in.weight")
    if f"{prefix}encoder.down.0.block.0.conv1.weight" not in state or entrance is None:
        raise FluxGuardError(
            f"{name} is not a FLUX autoencoder (it starts with {first_keys(state)}).",
            "Choose ae.safetensors, or a "
            "tiny autoencoder in the TAESD layout with 16 latent channels.",
        )
    channels = entrance.shape[1]
    if channels == 4:
        raise FluxGuardError(
            f"{name} is the autoencoder of Stable Diffusion or SDXL: its latent has 4 channels, FLUX.1's 16.",
            "Choose ae.safetensors.",
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
        "latent_channels": channels,
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
    return PipelineWords(text_pipeline(Path(folder), dtype, device))


def _fill(
    model: DiffusersModel, state: Mapping[str, Tensor], name: str, *, assign: bool = False
) -> None:
    try:
        model.load_state_dict(state, assign=assign)
    except RuntimeError as error:
        raise FluxGuardError(
            f"{name} does not fit the model that its own shapes describe ({str(error).splitlines()[-1].strip()}). "
            "The file is incomplete or of another kind.",
            "Download it again.",
        ) from error
