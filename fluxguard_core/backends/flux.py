"""FLUX through diffusers: the velocity field, pictures to latents and back, and three ways to load."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..flow.field import Block, Layout, ValueTap
from ..pictures.geometry import crop_to, pad_to_multiple
from .flux_keys import HEAD_DIM
from .geometry import FLUX, LatentGeometry

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
    """

    transformer: DiffusersModel
    prompt: Prompt
    guidance: float
    layout: Layout

    def __call__(self, latent: Tensor, sigma: float, tap: ValueTap | None = None) -> Tensor:
        size = (latent.shape[-2], latent.shape[-1])
        padded = pad_to_multiple(latent, 2)
        batch, (height, width) = latent.shape[0], padded.shape[-2:]
        context = _per_item(self.prompt.context, batch)
        dtype = context.dtype
        guidance = None
        if self.transformer.config.guidance_embeds:
            guidance = torch.full((batch,), self.guidance, device=latent.device, dtype=dtype)
        with _tapped(self.transformer, tap, context.shape[1]):
            velocity = self.transformer(
                hidden_states=pack(padded).to(dtype),
                encoder_hidden_states=context,
                pooled_projections=_per_item(self.prompt.pooled, batch),
                timestep=torch.full((batch,), sigma, device=latent.device, dtype=dtype),
                img_ids=image_ids(height // 2, width // 2, latent.device),
                txt_ids=torch.zeros(context.shape[1], 3, device=latent.device),
                guidance=guidance,
                return_dict=False,
            )[0]
        return crop_to(unpack(velocity.to(latent.dtype), height, width), size)


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

    def field(self, prompt: str, guidance: float) -> FluxField:
        """The velocity field at a prompt (paper: guidance 1 to invert, 5.5 to generate)."""
        encoded = self.encode_prompt(prompt)
        dtype = next(self.transformer.parameters()).dtype
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
                "The fast preset needs a tiny decoder (TAESD layout, 16 latent channels). Give its file, or "
                "choose the default preset."
            )
        return decode_latent(self.tiny_vae, latent)


def from_pipeline(pipeline: DiffusersModel, *, tiny_vae: DiffusersModel | None = None) -> FluxStack:
    """Use a ``FluxPipeline`` as it is, with its LoRAs and its offloading."""

    @torch.no_grad()
    def encode_prompt(text: str) -> Prompt:
        context, pooled, _ = pipeline.encode_prompt(text, prompt_2=None)
        return Prompt(context, pooled)

    return FluxStack(
        transformer=pipeline.transformer,
        vae=pipeline.vae,
        encode_prompt=encode_prompt,
        device=torch.device(pipeline._execution_device),
        layout=layout_of(pipeline.transformer),
        tiny_vae=tiny_vae,
    )


def from_folder(
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
    offload: bool = False,
) -> FluxStack:
    """Load a diffusers FLUX folder from disk, offline.

    Args:
        offload: let diffusers move each part to ``device`` only while it works.
    """
    pipeline_class = diffusers().FluxPipeline
    if not (Path(folder) / "model_index.json").is_file():
        raise FluxGuardError(
            f"Expected a diffusers FLUX folder with model_index.json, got '{Path(folder).name}'. Give the folder "
            "of FLUX.1-dev, or single files with --transformer and --vae."
        )
    pipeline = pipeline_class.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)
    if offload:
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)
    return from_pipeline(pipeline)


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
def _tapped(transformer: DiffusersModel, tap: ValueTap | None, text_tokens: int) -> Iterator[None]:
    """Show every block's attention values to ``tap``; double blocks show their image tokens."""
    if tap is None:
        yield
        return

    def hook(block: Block, text: int) -> Callable[[Any, Any, Tensor], Tensor | None]:
        return lambda module, args, values: tap(block, values, text)

    handles = []
    try:
        for i, block in enumerate(transformer.transformer_blocks):
            handles.append(block.attn.to_v.register_forward_hook(hook(Block("double", i), 0)))
        for i, block in enumerate(transformer.single_transformer_blocks):
            target = block.attn.to_v
            handles.append(target.register_forward_hook(hook(Block("single", i), text_tokens)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _recomputing(vae: DiffusersModel) -> Iterator[None]:
    decoder: Any = vae.decoder
    before = decoder.gradient_checkpointing
    decoder.gradient_checkpointing = torch.is_grad_enabled()
    if decoder.gradient_checkpointing and not hasattr(decoder, "_gradient_checkpointing_func"):
        vae.enable_gradient_checkpointing()
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
            f"{tensor.shape[0]} prompts do not divide a batch of {batch} pictures. Give one prompt, or one each."
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
            "This needs the diffusers package. Install it with: pip install 'fluxguard[diffusers]'"
        ) from error
    return diffusers
