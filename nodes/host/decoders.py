"""Decoders and recognisers that gradients pass through, in memory that the host counts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management as memory
import comfy.model_patcher
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...fluxguard_core.errors import FluxGuardError
from ...fluxguard_core.mini.models import FEATURE_SCALE
from ...fluxguard_core.protect.gradients import differentiable
from .field import KEY
from .flux import Model
from .progress import ordinary_tensors

_private: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()
_patchers: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
# Memory for the way back through a decoder with checkpointed blocks, in decodes without gradients.
_BACKWARD = 3.0


@dataclass(frozen=True, eq=False)
class PictureDecoder:
    """A private, differentiable copy of a VAE; the user's stays as it is.

    Call: host latent [B, C, h, w] -> picture [B, 3, 8h, 8w] in [0, 1].
    """

    vae: Any
    module: nn.Module

    def __call__(self, samples: Tensor) -> Tensor:
        decoded = self.module.decode(samples.to(self.vae.vae_dtype))
        # The host's own post-processing works in place; a clone keeps the graph whole.
        return self.vae.process_output(decoded.float().clone())[:, :3]

    def bytes_needed(self, shape: Sequence[int]) -> int:
        """Estimated working memory of a decode with gradients."""
        return int(_BACKWARD * self.vae.memory_used_decode(tuple(shape), self.vae.vae_dtype))

    def features(self) -> Callable[[Tensor], Tensor] | None:
        """Features [B, C, H/4, W/4] from the encoder of a TAESD-layout VAE; None for any other."""
        encoder = getattr(self.module, "taesd_encoder", None)
        if encoder is None:
            return None
        strided = [
            i for i, layer in enumerate(encoder) if getattr(layer, "stride", (1, 1)) == (2, 2)
        ]
        trunk = nn.Sequential(*list(encoder)[: strided[2]])
        # Channels that pad a narrower VAE are never written, and would only dilute the mean.
        with ordinary_tensors():
            writers = [encoder[strided[1]], *(block.conv[-1] for block in trunk[strided[1] + 1 :])]
            used = sum(layer.weight.abs().flatten(1).amax(1) for layer in writers) > 0
        return lambda picture: (
            FEATURE_SCALE * trunk(picture.to(self.vae.vae_dtype)).float()[:, used]
        )


def picture_decoder(vae: Any) -> PictureDecoder:
    """The private decoder of a VAE, made once."""
    if getattr(vae, "latent_dim", 2) != 2 or getattr(vae, "upscale_ratio", 8) != 8:
        raise FluxGuardError(
            "Expected a VAE of pictures with 8 pixels a latent (FLUX, SD), got another kind. Load FLUX's ae.safetensors."
        )
    original = vae.first_stage_model
    if original not in _private:
        with ordinary_tensors():
            module = differentiable(original)
            if module is original:
                module = copy.deepcopy(original).requires_grad_(False)
            _private[original] = _recomputing(module.eval())
    return PictureDecoder(vae, _private[original])


def _recomputing(module: nn.Module) -> nn.Module:
    """Let a decoder's blocks be computed again on the way back instead of kept."""
    for block in module.modules():
        if type(block).__name__ in ("Block", "ResnetBlock", "AttnBlock"):
            forward = block.forward

            def checkpointed(*args: Any, forward: Any = forward, **kwargs: Any) -> Any:
                if not torch.is_grad_enabled():
                    return forward(*args, **kwargs)
                return checkpoint(forward, *args, use_reentrant=False, **kwargs)

            block.forward = checkpointed  # type: ignore[method-assign]
    return module


def managed(network: nn.Module) -> Any:
    """The host's handle on a network of ours, so that its memory is counted and taken back."""
    if network not in _patchers:
        patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        _patchers[network] = patcher(
            network,
            load_device=memory.get_torch_device(),
            offload_device=memory.unet_offload_device(),
            size=memory.module_size(network),
        )
    return _patchers[network]


def load_together(
    decoder: PictureDecoder,
    networks: Sequence[nn.Module],
    shape: Sequence[int],
    model: Model = None,
) -> None:
    """Bring decoder and recognisers (and a MODEL) to the device, with room to work."""
    handles = [managed(network) for network in (decoder.module, *networks)]
    if model is not None:
        handles.append(model)
    memory.load_models_gpu(handles, memory_required=decoder.bytes_needed(shape))


def with_models(model: Model, networks: Sequence[nn.Module]) -> Model:
    """A clone of MODEL whose sampling also loads these networks, in one request."""
    patched = model.clone()
    patched.set_additional_models(KEY, [managed(network) for network in networks])
    return patched


def working_device() -> torch.device:
    """Where the host computes."""
    return memory.get_torch_device()
