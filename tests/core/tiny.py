"""Tiny random networks with the real architectures: enough to test exactness and plumbing."""

from __future__ import annotations

from functools import cache

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, FluxTransformer2DModel
from torch import Tensor, nn

from fluxguard_core.backends.flux import FluxStack, Prompt, layout_of
from fluxguard_core.recognition.encoder import FaceEncoder, Threshold
from fluxguard_core.recognition.ensemble import Ensemble

CONTEXT, POOLED = 32, 16


@cache
def tiny_transformer(seed: int = 0, single_blocks: int = 4) -> FluxTransformer2DModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FluxTransformer2DModel(
            num_layers=1,
            num_single_layers=single_blocks,
            attention_head_dim=128,
            num_attention_heads=1,
            joint_attention_dim=CONTEXT,
            pooled_projection_dim=POOLED,
            guidance_embeds=True,
            axes_dims_rope=(16, 56, 56),
        )
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.05)
    return model.eval()


@cache
def tiny_vae() -> AutoencoderKL:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 16, 16),
            layers_per_block=1,
            latent_channels=16,
            norm_num_groups=4,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ).eval()


@cache
def tiny_taesd() -> AutoencoderTiny:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            latent_channels=16,
        ).eval()
    # Fresh weights decode to almost one grey; spread the pictures over [0, 1].
    with torch.no_grad():
        grey = vae.decode(noise(1, 16, 8, 8), return_dict=False)[0] / 2 + 0.5
        last = vae.decoder.layers[-1]
        last.weight *= 0.2 / grey.std()
        last.bias.copy_(0.5 + (last.bias - grey.mean()) * 0.2 / grey.std())
    return vae


def encode_words(text: str) -> Prompt:
    """One random vector a word: prompts differ in length, as they do in other text encoders."""
    rows = [torch.Generator().manual_seed(sum(map(ord, word))) for word in text.split()]
    context = torch.stack([torch.randn(CONTEXT, generator=row) for row in rows])[None]
    return Prompt(context, context.mean(1)[:, :POOLED])


def tiny_stack() -> FluxStack:
    transformer = tiny_transformer()
    return FluxStack(
        transformer=transformer,
        vae=tiny_vae(),
        encode_prompt=encode_words,
        device=torch.device("cpu"),
        layout=layout_of(transformer),
        tiny_vae=tiny_taesd(),
    )


class TinyRecogniser(nn.Module):
    """A smooth random embedding, so that finite differences are well defined."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.convolution = nn.Conv2d(3, 8, 5, stride=4)
            self.linear = nn.Linear(8 * 27 * 27, 24)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.tanh(self.convolution(x))
        return self.linear((features - features.mean((2, 3), keepdim=True)).flatten(1))


def tiny_encoder(seed: int, name: str | None = None) -> FaceEncoder:
    limits = (Threshold(1e-2, 0.5, "made up for tests"),)
    return FaceEncoder(name or f"tiny{seed}", TinyRecogniser(seed), 112, thresholds=limits)


def tiny_ensemble() -> Ensemble:
    return Ensemble((tiny_encoder(11), tiny_encoder(12)), (tiny_encoder(13, "judge"),))


def landmarks(size: int = 64) -> Tensor:
    """Five points [1, 5, 2] of a face in the middle of a picture."""
    points = [[0.36, 0.42], [0.64, 0.42], [0.5, 0.56], [0.4, 0.7], [0.6, 0.7]]
    return torch.tensor([points]) * size


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
