"""FLUX through diffusers: the velocity field, pictures to latents and back, and three ways to load."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..flow.field import Layout, ValueTap
from ..pictures.geometry import crop_to, pad_to_multiple
from ..worlds import World, known_by
from .compiled import evaluated
from .flux_keys import HEAD_DIM
from .flux_taps import tapped
from .geometry import FLUX, LatentGeometry, geometry_of

# diffusers is optional and loosely typed: its classes are named in the docstrings instead.
DiffusersModel = Any


@dataclass(frozen=True, eq=False)
class Prompt:
    """Text as FLUX reads it: ``context`` [B, T, D] (T5) and ``pooled`` [B, P] (CLIP)."""

    context: Tensor
    pooled: Tensor


@dataclass(frozen=True, eq=False)
class FluxField:
    """Velocity of a diffusers FLUX transformer at one prompt and guidance.

    Value taps are forward hooks on the value projections for the length of one evaluation, so LoRA,
    quantisation and offloading keep working; the model is clean afterwards.

    Args:
        reference: latent [B, C, h', w'] of a picture beside the one that is made, as Kontext has it.
    """

    transformer: DiffusersModel
    prompt: Prompt
    guidance: float
    layout: Layout
    reference: Tensor | None = None

    @property
    def context(self) -> Tensor:
        """The prompt's embedding [B, T, D]."""
        return self.prompt.context

    def at(self, context: Tensor) -> FluxField:
        """The field at another embedding of the prompt."""
        return replace(self, prompt=replace(self.prompt, context=context))

    def beside(self, reference: Tensor) -> FluxField:
        """The field with a reference picture's latent beside the one that is made."""
        return replace(self, reference=reference)

    def __call__(self, latent: Tensor, sigma: float, tap: ValueTap | None = None) -> Tensor:
        size = (latent.shape[-2], latent.shape[-1])
        padded = pad_to_multiple(latent, 2)
        batch, (height, width) = latent.shape[0], padded.shape[-2:]
        context = _per_item(self.prompt.context, batch)
        dtype = context.dtype
        guidance = None
        if self.transformer.config.guidance_embeds:
            guidance = torch.full((batch,), self.guidance, device=latent.device, dtype=dtype)
        tokens, ids = pack(padded), image_ids(height // 2, width // 2, latent.device)
        made = tokens.shape[1]
        if self.reference is not None:
            beside = pad_to_multiple(self.reference, 2)
            places = image_ids(beside.shape[-2] // 2, beside.shape[-1] // 2, latent.device)
            places[:, 0] = 1
            tokens = torch.cat([tokens, pack(beside).to(tokens)], 1)
            ids = torch.cat([ids, places])
        with tapped(self.transformer, tap, context.shape[1]):
            velocity = evaluated(
                self.transformer,
                hidden_states=tokens.to(dtype),
                encoder_hidden_states=context,
                pooled_projections=_per_item(self.prompt.pooled, batch),
                timestep=torch.full((batch,), sigma, device=latent.device, dtype=dtype),
                img_ids=ids,
                txt_ids=torch.zeros(context.shape[1], 3, device=latent.device),
                guidance=guidance,
                return_dict=False,
            )[0]
        return crop_to(unpack(velocity[:, :made].to(latent.dtype), height, width), size)


@dataclass(frozen=True, eq=False)
class FluxStack:
    """A FLUX model ready to use.

    Args:
        transformer: diffusers ``FluxTransformer2DModel``.
        vae: diffusers ``AutoencoderKL`` or ``AutoencoderTiny``.
        encode_prompt: text -> ``Prompt``.
        device: where the work is done (offloaded weights may rest elsewhere).
        tiny_vae: optional TAESD-layout autoencoder for cheap gradients.
    """

    transformer: DiffusersModel
    vae: DiffusersModel
    encode_prompt: Callable[[str], Prompt]
    device: torch.device
    layout: Layout
    tiny_vae: DiffusersModel | None = None
    geometry: LatentGeometry = FLUX

    @property
    def world(self) -> World:
        """Which faces it knows: drawn ones only where its transformer or its autoencoder does."""
        return "drawn" if "drawn" in map(known_by, (self.transformer, self.vae)) else "photo"

    def field(self, prompt: str, guidance: float) -> FluxField:
        """The velocity field at a prompt (paper: guidance 1 to invert, 5.5 to generate)."""
        encoded = self.encode_prompt(prompt)
        dtype = compute_dtype(self.transformer)
        on_device = Prompt(
            encoded.context.to(self.device, dtype), encoded.pooled.to(self.device, dtype)
        )
        return FluxField(self.transformer, on_device, guidance, self.layout)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Picture [B, 3, H, W] in [0, 1] -> model-space latent [B, 16, h, w]; pads to whole tokens."""
        return encode_image(
            self.vae, pad_to_multiple(image, self.geometry.pixels_per_token).to(self.device)
        )

    def encode_with_gradient(self, image: Tensor) -> Tensor:
        """Picture [B, 3, H, W] of whole tokens -> model-space latent; differentiable."""
        return encode_image(self.vae, image.to(self.device))

    def decode(self, latent: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Model-space latent -> picture in [0, 1], cropped to ``size`` if given; differentiable."""
        image = decode_latent(self.vae, latent)
        return image if size is None else crop_to(image, size)

    def decode_tiny(self, latent: Tensor) -> Tensor:
        """The same through the tiny decoder: an approximation for gradients."""
        if self.tiny_vae is None:
            raise FluxGuardError(
                "The fast preset needs a tiny decoder (TAESD layout, 16 latent channels).",
                "Give its file, or choose the default preset.",
            )
        return decode_latent(self.tiny_vae, latent)


@dataclass(frozen=True, eq=False)
class PipelineWords:
    """Text -> ``Prompt`` through a ``FluxPipeline``; ``parts`` are its CLIP and T5, which a LoRA may change."""

    pipeline: DiffusersModel

    @torch.no_grad()
    def __call__(self, text: str) -> Prompt:
        context, pooled, _ = self.pipeline.encode_prompt(text, prompt_2=None)
        return Prompt(context, pooled)

    @property
    def parts(self) -> tuple[DiffusersModel, DiffusersModel]:
        return self.pipeline.text_encoder, self.pipeline.text_encoder_2


def compute_dtype(transformer: DiffusersModel) -> torch.dtype:
    """The number format a transformer computes in: what its quantisation says, else its weights'.

    Packed weights (uint8 of 4 bits) and weights that rest in 8 bits say nothing of it.
    """
    quantised: Any = getattr(transformer.config, "quantization_config", None) or {}
    quantised = quantised if isinstance(quantised, dict) else vars(quantised)
    named = quantised.get("bnb_4bit_compute_dtype") or quantised.get("compute_dtype")
    if isinstance(named, str):
        named = getattr(torch, named.removeprefix("torch."), None)
    if isinstance(named, torch.dtype):
        return named
    for parameter in transformer.parameters():
        if parameter.is_floating_point() and parameter.element_size() >= 2:
            return parameter.dtype
    return torch.bfloat16


def cast(model: DiffusersModel, dtype: torch.dtype) -> DiffusersModel:
    """The model in a number format, frozen; diffusers' own ``to`` warns about formats it does not use."""
    return torch.nn.Module.to(model, dtype=dtype).eval().requires_grad_(False)


def from_pipeline(pipeline: DiffusersModel, *, tiny_vae: DiffusersModel | None = None) -> FluxStack:
    """Use a ``FluxPipeline`` as it is, with its LoRAs and its offloading."""

    return FluxStack(
        transformer=pipeline.transformer,
        vae=frozen_decoder(pipeline.vae),
        encode_prompt=PipelineWords(pipeline),
        device=torch.device(pipeline._execution_device),
        layout=layout_of(pipeline.transformer),
        tiny_vae=tiny_vae,
        geometry=geometry_of(pipeline.vae),
    )


def frozen_decoder(vae: DiffusersModel) -> DiffusersModel:
    """The autoencoder without gradients for its weights, and in float32 where it was float16.

    FLUX's decoder overflows in float16. An autoencoder that accelerate moves about is left in its format.
    """
    vae.requires_grad_(False)
    half = next(vae.parameters()).dtype == torch.float16
    return cast(copy.deepcopy(vae), torch.float32) if half and not hasattr(vae, "_hf_hook") else vae


def encode_image(vae: DiffusersModel, image: Tensor) -> Tensor:
    """Picture [B, 3, H, W] in [0, 1] -> float32 model-space latent: (l - shift) · scale."""
    weight = next(vae.parameters())
    encoded = vae.encode(image.to(weight.dtype) * 2 - 1)
    latent = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    shift, scale = _shift_and_scale(vae)
    return (latent.float() - shift) * scale


def decode_latent(vae: DiffusersModel, latent: Tensor) -> Tensor:
    """Model-space latent -> picture [B, 3, 8h, 8w] clamped to [0, 1], float32, differentiable.

    Where gradients are on, the decoder recomputes its blocks on the way back instead of keeping them.
    """
    shift, scale = _shift_and_scale(vae)
    dtype = next(vae.parameters()).dtype
    with _recomputing(vae):
        sample = vae.decode((latent / scale + shift).to(dtype), return_dict=False)[0]
    return ((sample.float() + 1) / 2).clamp(0, 1)


def pack(latent: Tensor) -> Tensor:
    """[B, C, H, W] -> tokens [B, H/2·W/2, 4C] in rows; channel order (c, ph, pw)."""
    b, c, h, w = latent.shape
    return latent.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, -1, 4 * c)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens [B, H/2·W/2, 4C] -> [B, C, ``height``, ``width``], the inverse of ``pack``."""
    b, _, c = tokens.shape
    grid = tokens.view(b, height // 2, width // 2, c // 4, 2, 2)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, height, width)


def image_ids(rows: int, columns: int, device: torch.device) -> Tensor:
    """Rotary positions [rows·columns, 3] = (0, row, column) of the image tokens."""
    y = torch.arange(rows, device=device).repeat_interleave(columns)
    x = torch.arange(columns, device=device).repeat(rows)
    return torch.stack([torch.zeros_like(y), y, x], dim=1).float()


def layout_of(transformer: DiffusersModel) -> Layout:
    """Recognise a diffusers FLUX transformer: its shape, and a fingerprint of its first projection."""
    config: Any = transformer.config
    if not hasattr(transformer, "single_transformer_blocks"):
        raise FluxGuardError(
            f"Expected diffusers' FluxTransformer2DModel, got {type(transformer).__name__}. FluxGuard works on "
            "FLUX.1 (dev, schnell and their finetunes)."
        )
    embedder = transformer.x_embedder
    weight = getattr(embedder, "base_layer", embedder).weight
    return Layout(
        model="flux" if config.guidance_embeds else "flux without guidance",
        double_blocks=config.num_layers,
        single_blocks=config.num_single_layers,
        width=config.num_attention_heads * HEAD_DIM,
        fingerprint="" if weight.is_meta else hashlib.sha256(_bytes(weight)).hexdigest()[:8],
        structure=FLUX.structure_blocks(config.num_single_layers),
    )


@contextmanager
def _recomputing(vae: DiffusersModel) -> Iterator[None]:
    decoder: Any = vae.decoder
    before = decoder.gradient_checkpointing
    decoder.gradient_checkpointing = torch.is_grad_enabled()
    if decoder.gradient_checkpointing and not hasattr(decoder, "_gradient_checkpointing_func"):
        vae.enable_gradient_checkpointing()
        # Only the decoder recomputes: diffusers' tiny encoder forgets to scale its picture where it does.
        encoder: Any = vae.encoder
        encoder.gradient_checkpointing = False
    try:
        yield
    finally:
        decoder.gradient_checkpointing = before


def _shift_and_scale(vae: DiffusersModel) -> tuple[float, float]:
    config: Any = vae.config
    return config.shift_factor or 0.0, config.scaling_factor


def _per_item(tensor: Tensor, batch: int) -> Tensor:
    if tensor.shape[0] == batch:
        return tensor
    if batch % tensor.shape[0]:
        raise FluxGuardError(
            f"{tensor.shape[0]} prompts do not divide a batch of {batch} pictures.",
            "Give one prompt, or one each.",
        )
    return tensor.repeat(batch // tensor.shape[0], *[1] * (tensor.ndim - 1))


def _bytes(weight: Tensor) -> bytes:
    # bfloat16 so that the same model in another width of numbers keeps its name
    return weight.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes()


def diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise FluxGuardError(
            "This needs the diffusers package.", "Run ‹install diffusers transformers accelerate›."
        ) from error
    return diffusers
