"""Training of the TAESD-layout autoencoder on rendered portraits."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fluxguard_core.backends.taesd import AutoencoderTiny, narrow_autoencoder, padded_state
from fluxguard_core.mini.people import HELD_OUT_WORLD, spec_of
from fluxguard_core.mini.renderer import render_batch
from fluxguard_core.mini.world import load_autoencoder

from .anatomy import Anatomy
from .cache import open_cache
from .handover import earlier, hand_over
from .latents import prepared_latents
from .training import Recipe, TrainPlan, TrainState, train

RATE = 1.6e-3
CROPS_UNTIL = 0.75


class _Coder(nn.Module):
    """Both halves on pictures in [0, 1] (the layout's own range), without diffusers' wrapping."""

    def __init__(self, autoencoder: AutoencoderTiny) -> None:
        super().__init__()
        self.encoder = autoencoder.encoder.layers
        self.decoder = autoencoder.decoder.layers

    def encode(self, image: Tensor) -> Tensor:
        """[B,3,H,W] in [0,1] -> [B,16,H/8,W/8]."""
        return self.encoder(image)

    def decode(self, latent: Tensor) -> Tensor:
        """[B,16,h,w] -> [B,3,8h,8w] about [0,1]."""
        return self.decoder(torch.tanh(latent / 3.0) * 3.0)


def _gradients(image: Tensor) -> tuple[Tensor, Tensor]:
    return image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]


def _chroma(image: Tensor) -> Tensor:
    """Colour differences at quarter resolution: thin lips and lids weigh as much as their colour."""
    small = nn.functional.avg_pool2d(image, 4)
    return torch.stack([small[:, 0] - small[:, 1], small[:, 2] - small[:, 1]], 1)


def _fresh(anatomy: Anatomy) -> AutoencoderTiny:
    return narrow_autoencoder(anatomy.channels, anatomy.encoder, anatomy.decoder)


def picture_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 + L1 of finite differences + 2 MSE + 4 MSE of the chroma."""
    edges = sum(
        (a - b).abs().mean() for a, b in zip(_gradients(output), _gradients(target), strict=True)
    )
    chroma = nn.functional.mse_loss(_chroma(output), _chroma(target))
    return (
        (output - target).abs().mean()
        + edges
        + 2.0 * nn.functional.mse_loss(output, target)
        + 4.0 * chroma
    )


def latent_regulariser(latent: Tensor) -> Tensor:
    """Pulls every channel towards zero mean and unit variance, and the tails inside the clamp."""
    mean, var = latent.mean((0, 2, 3)), latent.var((0, 2, 3))
    tails = (latent.abs() - 3.0).clamp(min=0.0)
    return (mean**2).mean() + ((var - 1.0) ** 2).mean() + (tails**2).mean()


def reconstruction_psnr(coder: _Coder, images: Tensor) -> float:
    """Mean over pictures of PSNR in dB."""
    with torch.no_grad():
        output = coder.decode(coder.encode(images)).clamp(0.0, 1.0)
    error = ((output - images) ** 2).mean((1, 2, 3))
    return float((-10.0 * torch.log10(error)).mean())


def train_vae(plan: TrainPlan) -> None:
    """Writes the anatomy's `...-vae.safetensors` (float16, zero-padded) into plan.out."""
    cache = open_cache(plan.cache, plan.portraits)
    coder = _Coder(_fresh(plan.anatomy))
    coder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    held_out, _, _ = render_batch([spec_of(HELD_OUT_WORLD, i, 0) for i in range(16)])

    def loss(state: TrainState, progress: float) -> tuple[Tensor, dict[str, float]]:
        # Crops first: the same pixels make four times the steps, and steps are what is short.
        whole = progress > CROPS_UNTIL
        rng = np.random.default_rng((plan.seed, state.step))
        rows = np.sort(rng.integers(0, len(cache.images), plan.batch // 3 if whole else plan.batch))
        images = torch.from_numpy(cache.images[rows]).to(plan.device).float() / 255.0
        if not whole:
            half = images.shape[-1] // 2
            y, x = rng.integers(0, half + 1, 2)
            images = images[..., y : y + half, x : x + half]
        if rng.random() < 0.5:
            images = images.flip(-1)
        images = images.contiguous(memory_format=torch.channels_last)
        live: _Coder = state.module  # type: ignore[assignment]
        latent = live.encode(images).float()
        noise = 0.1 * torch.rand(len(rows), 1, 1, 1, device=plan.device)
        output = live.decode(latent + noise * torch.randn_like(latent)).float()
        picture, pull = picture_loss(output, images), latent_regulariser(latent)
        return picture + 0.005 * pull, {
            "pull": float(pull.detach()),
            "std": float(latent.detach().std()),
        }

    def report(state: TrainState) -> str:
        average: _Coder = state.average  # type: ignore[assignment]
        return f"held-out PSNR {reconstruction_psnr(average, held_out.to(plan.device)):.2f} dB"

    coder = train("vae", coder, loss, plan, Recipe(RATE), report)  # type: ignore[assignment]
    save_vae(coder.cpu(), plan)


class _Decoder(nn.Module):
    """The decoder alone, on latents."""

    def __init__(self, decoder: nn.Sequential) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latent: Tensor) -> Tensor:
        """[B,16,h,w] -> [B,3,8h,8w] about [0,1]."""
        return self.decoder(torch.tanh(latent / 3.0) * 3.0)


def refine_decoder(plan: TrainPlan) -> None:
    """Train an autoencoder's decoder further; the encoder, and so every latent, stays."""
    cache = open_cache(plan.cache, plan.portraits)
    latents = prepared_latents(plan, cache)
    coder = _Coder(load_autoencoder(earlier("vae", plan)))
    held_out, _, _ = render_batch([spec_of(HELD_OUT_WORLD, i, 0) for i in range(16)])
    with torch.no_grad():
        held_latents = coder.encode(held_out)
    decoder = _Decoder(coder.decoder).requires_grad_(True)
    decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(state: TrainState, progress: float) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((plan.seed, state.step))
        rows = np.sort(rng.integers(0, len(latents), plan.batch))
        images = torch.from_numpy(cache.images[rows]).to(plan.device).float() / 255.0
        latent = torch.from_numpy(np.asarray(latents[rows])).to(plan.device).float()
        noise = 0.06 * torch.rand(len(rows), 1, 1, 1, device=plan.device)
        latent = (latent + noise * torch.randn_like(latent)).contiguous(
            memory_format=torch.channels_last
        )
        output = state.module(latent).float()
        return picture_loss(output, images), {}

    def report(state: TrainState) -> str:
        with torch.no_grad():
            output = state.average(held_latents.to(plan.device)).clamp(0.0, 1.0)
        error = ((output - held_out.to(plan.device)) ** 2).mean((1, 2, 3))
        return f"held-out PSNR {float((-10.0 * torch.log10(error)).mean()):.2f} dB"

    trained = train("vae-decoder", decoder, loss, plan, Recipe(0.6 * RATE), report)
    coder.decoder.load_state_dict(trained.decoder.state_dict())  # type: ignore[union-attr]
    save_vae(coder.cpu(), plan)


def save_vae(coder: _Coder, plan: TrainPlan) -> None:
    """Zero-pad and write the file that ComfyUI's Load VAE reads."""
    autoencoder = _fresh(plan.anatomy)
    autoencoder.encoder.layers, autoencoder.decoder.layers = coder.encoder, coder.decoder
    state = {k: v.to(torch.float16).contiguous() for k, v in padded_state(autoencoder).items()}
    path = plan.out / f"{plan.anatomy.name}-vae.safetensors"
    save_file(state, path, {"format": "pt", "licence": "Apache-2.0"})
    hand_over(path, "vae")
