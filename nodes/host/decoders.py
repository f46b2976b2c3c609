"""A VAE as a picture decoder that gradients pass through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...fluxguard_core.errors import FluxGuardError
from ...fluxguard_core.mini.models import FEATURE_SCALE
from .networks import managed, private_copy
from .progress import ordinary_tensors

_private: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()
CELLS = (8, 16)
"""Pixels a latent; FLUX.2's autoencoders pack 2 x 2 cells of 8."""
# Memory for the way back through a decoder with checkpointed blocks, in decodes without gradients.
_BACKWARD = 3.0


@dataclass(frozen=True, eq=False)
class PictureDecoder:
    """A private, differentiable copy of a VAE; the user's stays as it is.

    Call: host latent [B, C, h, w] -> picture [B, 3, 8h, 8w] in [0, 1]; FLUX.2's are of 16 pixels a cell.

    Args:
        module: an autoencoder of the host's, with ``encode`` and ``decode``.
    """

    vae: Any
    module: Any

    def __call__(self, samples: Tensor) -> Tensor:
        decoded = self.module.decode(samples.to(_device(self.module), self.vae.vae_dtype))
        # The host's own post-processing works in place; a clone keeps the graph whole.
        return self.vae.process_output(decoded.float().clone())[:, :3].to(samples.device)

    def encode(self, picture: Tensor) -> Tensor:
        """Picture [B, 3, H, W] in [0, 1] of whole cells -> host latent [B, C, h, w], differentiable."""
        place = _device(self.module)
        given = self.vae.process_input(picture.to(place, self.vae.vae_dtype))
        return self.module.encode(given).float().to(picture.device)

    def bytes_to_encode(self, size: tuple[int, int]) -> int:
        """Estimated working memory of an encode of (height, width) pixels with its way back."""
        return int(_BACKWARD * self.vae.memory_used_encode((1, 3, *size), self.vae.vae_dtype))

    def bytes_needed(self, shape: Sequence[int], *, gradients: bool = True) -> int:
        """Estimated working memory of a decode [B, C, h, w], all pictures at once."""
        one = self.vae.memory_used_decode((1, *shape[1:]), self.vae.vae_dtype)
        return int((_BACKWARD if gradients else 1) * shape[0] * one)

    def look(self, samples: Tensor) -> Tensor:
        """The same picture without gradients, by the host, which takes tiles where memory is short."""
        decoded = self.vae.decode(samples).movedim(-1, 1)[:, :3]
        with ordinary_tensors():
            return decoded.to(samples.device, torch.float32).clone()

    def features(self) -> Callable[[Tensor], Tensor] | None:
        """Features [B, C, H/4, W/4] from the encoder of a TAESD-layout VAE; None for any other."""
        encoder = getattr(self.module, "taesd_encoder", None)
        if encoder is None:
            return None
        strided = [
            i for i, layer in enumerate(encoder) if getattr(layer, "stride", (1, 1)) == (2, 2)
        ]
        layers = list(encoder)[: strided[2]]
        trunk = nn.Sequential(*layers)
        # Channels that pad a narrower VAE are never written, and would only dilute the mean.
        with ordinary_tensors():
            writers = [encoder[strided[1]], *(block.conv[-1] for block in layers[strided[1] + 1 :])]
            used = sum(layer.weight.abs().flatten(1).amax(1) for layer in writers) > 0

        def seen(picture: Tensor) -> Tensor:
            found = trunk(picture.to(_device(trunk), self.vae.vae_dtype)).float()
            return FEATURE_SCALE * found[:, used.to(found.device)].to(picture.device)

        return seen


def picture_decoder(vae: Any) -> PictureDecoder:
    """The private decoder of a VAE, made once."""
    if getattr(vae, "latent_dim", 2) != 2 or getattr(vae, "upscale_ratio", 8) not in CELLS:
        raise FluxGuardError(
            "Expected a VAE of pictures with 8 or 16 pixels a latent (FLUX, FLUX.2, SD), got another kind. Load FLUX's "
            "ae.safetensors."
        )
    original = vae.first_stage_model
    if original not in _private:
        _private[original] = _recomputing(private_copy(original))
        # Where the user's own decodes, which a node of several cards or a switch may have moved.
        managed(_private[original], getattr(vae.patcher, "load_device", None))
    return PictureDecoder(vae, _private[original])


def on_its_device(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """A network that takes tensors from any device, computes where its weights lie and gives results back."""
    return lambda given: network(given.to(_device(network))).to(given.device)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _recomputing(module: nn.Module) -> nn.Module:
    """Let a decoder's blocks be computed again on the way back instead of kept.

    Not its attention: the host slices that by the memory that is free at the moment, so computed again it would
    not keep the same tensors.
    """
    for block in module.modules():
        if type(block).__name__ in ("Block", "ResnetBlock"):
            kind: Any = type(block)  # checkers take a class's hash for that of its instances
            block.__class__ = _recomputed(kind)
    return module


@lru_cache
def _recomputed(kind: type[nn.Module]) -> type[nn.Module]:
    """A kind of block that is computed again on the way back. As a class, so that copies use their own weights."""

    class Recomputed(kind):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return super().forward(*args, **kwargs)
            # No block draws random numbers, whose state would have to be read from the device.
            return checkpoint(
                super().forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
            )

    return Recomputed
