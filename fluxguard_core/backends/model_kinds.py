"""What a model file is, told from the names and shapes in it: one sentence before anything large is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import FluxGuardError
from ..weights.safetensors_file import Contents
from .flux_keys import is_bfl_flux

Shapes = Mapping[str, tuple[int, ...]]

_FLUX_CHANNELS = 64
_CHOOSE = "Choose FLUX.1 dev, schnell or a finetune of them."
_QUANTISED = (
    "Choose the bf16 or fp8 version; in ComfyUI, the nodes take this file through its own loader."
)


@dataclass(frozen=True)
class _Kind:
    """A kind of file: how it is known, what it is called, and what to do."""

    known: Callable[[Shapes], bool]
    what: str
    remedy: str


def _has(pattern: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(re.search(pattern, key) for key in shapes)


def _takes(channels: int) -> Callable[[Shapes], bool]:
    return lambda shapes: any(
        re.search(r"(^|\.)img_in\.weight$|(^|\.)x_embedder\.weight$", key)
        and shape[1:] == (channels,)
        for key, shape in shapes.items()
    )


_QUANTISATIONS = (
    _Kind(
        _has(r"\.(absmax|quant_map|nested_absmax)$|quant_state\.bitsandbytes"),
        "quantised to 4 bits by bitsandbytes (NF4 or FP4)",
        _QUANTISED,
    ),
    _Kind(
        _has(r"\.(qweight|qzeros|smooth_orig|wscales)$"), "quantised by Nunchaku or AWQ", _QUANTISED
    ),
)
_TRANSFORMERS = (
    _Kind(
        _has(r"distilled_guidance_layer\."),
        "Chroma, made out of FLUX.1 but without its modulation",
        _CHOOSE,
    ),
    _Kind(_has(r"double_stream_modulation_img\."), "a FLUX.2 transformer", _CHOOSE),
    _Kind(
        _takes(384),
        "FLUX.1 Fill, which takes 384 channels: picture, mask and masked picture",
        _CHOOSE,
    ),
    _Kind(
        _takes(128), "a FLUX.1 control model (Canny or Depth), which takes 128 channels", _CHOOSE
    ),
    _Kind(
        _has(r"(^|\.)(lora_|lora_unet_|lycoris_)|\.lora_(A|B|down|up)\b|\.hada_w1_a|\.lokr_w1"),
        "a LoRA or has leftovers of one, no plain transformer",
        "Give a LoRA as ‹give lora› beside its FLUX.1 model.",
    ),
    _Kind(
        _has(r"^transformer_blocks\.0\.attn\.add_k_proj\.weight"),
        "in diffusers' key names, as a part of a folder is",
        "Give the whole folder with ‹give model›, or the file in Black Forest Labs' names.",
    ),
    _Kind(
        _has(r"(^|\.)label_emb\.|conditioner\.embedders\.1\."),
        "an SDXL checkpoint",
        _CHOOSE,
    ),
    _Kind(_has(r"(^|\.)input_blocks\.0\.0\.weight$"), "a Stable Diffusion checkpoint", _CHOOSE),
    _Kind(_has(r"(^|\.)joint_blocks\.0\."), "a Stable Diffusion 3 transformer", _CHOOSE),
    _Kind(
        _has(r"^(encoder\.block\.0\.layer\.0\.SelfAttention|shared\.weight|text_model\.encoder\.)"),
        "a text encoder (T5 or CLIP)",
        "Give its folder as ‹give text_encoders›, and a FLUX.1 diffusion model here.",
    ),
    _Kind(
        _has(r"^((vae|first_stage_model)\.)?decoder\.conv_in\.weight|^taesd_decoder\."),
        "an autoencoder",
        "Give it as ‹give vae›, and a FLUX.1 diffusion model here.",
    ),
)
_AUTOENCODERS = (
    _Kind(
        _has(r"(^|\.)bn\.running_mean$"),
        "the autoencoder of FLUX.2, whose latent FLUX.1 does not know",
        "Choose FLUX.1's ae.safetensors.",
    ),
    _Kind(
        _has(r"^encoder\.down_blocks\.0\."),
        "an autoencoder in diffusers' key names, as a part of a folder is",
        "Give the whole folder with ‹give model›, or FLUX.1's ae.safetensors.",
    ),
    _Kind(
        is_bfl_flux, "a FLUX transformer", "Give it as ‹give transformer›, and ae.safetensors here."
    ),
    _Kind(
        _has(r"^(encoder\.block\.0\.layer\.0\.SelfAttention|shared\.weight|text_model\.encoder\.)"),
        "a text encoder (T5 or CLIP)",
        "Choose FLUX.1's ae.safetensors.",
    ),
)


def require_transformer(contents: Contents, name: str) -> None:
    """Pass over a FLUX.1 transformer in Black Forest Labs' names.

    Raises:
        FluxGuardError: says what the file is instead, and what to do.
    """
    _refuse(contents.shapes, name, (*_QUANTISATIONS, *_transformers(contents.shapes)))
    if "kontext" in f"{name} {contents.notes}".lower():
        raise FluxGuardError(
            f"{name} is FLUX.1 Kontext by its name: it edits by reference pictures, which the inversion does "
            "not give it.",
            _CHOOSE,
        )
    if not is_bfl_flux(contents.shapes):
        raise FluxGuardError(
            f"{name} is not a FLUX.1 transformer in Black Forest Labs key names (it starts with "
            f"{first_keys(contents.shapes)}).",
            "Choose a FLUX.1 diffusion model file.",
        )


def _transformers(shapes: Shapes) -> tuple[_Kind, ...]:
    """All-in-one checkpoints hold an autoencoder and text encoders beside a FLUX transformer."""
    return _TRANSFORMERS[:5] if is_bfl_flux(shapes) else _TRANSFORMERS


def require_autoencoder(contents: Contents, name: str) -> None:
    """Pass over what may be a FLUX.1 autoencoder; FluxGuardError names another model."""
    _refuse(contents.shapes, name, _AUTOENCODERS)


def _refuse(shapes: Shapes, name: str, kinds: tuple[_Kind, ...]) -> None:
    for kind in kinds:
        if kind.known(shapes):
            raise FluxGuardError(f"{name} is {kind.what}.", kind.remedy)


def first_keys(names: Mapping[str, object]) -> str:
    """The first three names of a file, for messages."""
    return ", ".join(sorted(names)[:3]) or "no tensor at all"


def require_flux_channels(channels: int, name: str) -> None:
    """FluxGuardError unless a transformer takes FLUX.1's 16 latent channels, four cells a token."""
    if channels != _FLUX_CHANNELS:
        kind = {384: " (FLUX.1 Fill)", 128: " (a control model, or FLUX.2)"}.get(channels, "")
        raise FluxGuardError(
            f"{name} takes {channels} channels a token{kind}; FLUX.1 takes {_FLUX_CHANNELS}.",
            _CHOOSE,
        )
