"""TAESD-layout autoencoders: one file for ComfyUI and diffusers, narrow inside.

The layout fixes 64 channels everywhere, which costs several times more than 128 px portraits need. A
narrow network is the same function as a wide one whose other channels are zero: a channel with zero
weights and zero bias stays 0 through ReLU and skip connections. So files are written zero-padded to the
fixed layout, and `load_autoencoder_state` finds the channels that can never be anything but 0, and
drops them again. Layout: Ollin Boer Bohan's TAESD; 16 latent channels as in its FLUX version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FluxGuardError
from .geometry import FLUX

FLUX_SCALE = 0.3611
FLUX_SHIFT = 0.1159
WIDTH = 64
ENCODER_BLOCKS = (1, 3, 3, 3)
DECODER_BLOCKS = (3, 3, 3, 1)

# diffusers is optional and loosely typed: AutoencoderTiny in every signature.
AutoencoderTiny = Any


def _wide(latent_channels: int, scale: float, shift: float) -> AutoencoderTiny:
    try:
        from diffusers import AutoencoderTiny as Tiny
    except ImportError as error:
        raise FluxGuardError(
            "This needs the diffusers package.", "Run ‹install diffusers transformers accelerate›."
        ) from error
    # Host: (enc / scale + shift - 0.1159) * 0.3611; diffusers: (enc - shift_factor) * scaling_factor.
    return Tiny(
        latent_channels=latent_channels,
        num_encoder_blocks=ENCODER_BLOCKS,
        num_decoder_blocks=DECODER_BLOCKS,
        scaling_factor=FLUX_SCALE / scale,
        shift_factor=(FLUX_SHIFT - shift) * scale,
    )


def is_taesd(state: Mapping[str, Tensor]) -> bool:
    """True for a file that holds both halves under TAESD's names."""
    return "taesd_encoder.0.weight" in state and "taesd_decoder.1.weight" in state


def taesd_to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """TAESD names to AutoencoderTiny's, shapes unchanged; the decoder's first entry is its clamp."""
    if not is_taesd(state):
        raise FluxGuardError(
            "Expected a TAESD-layout autoencoder (keys taesd_encoder.*, taesd_decoder.*); "
            f"the file starts with {', '.join(sorted(state)[:3])}."
        )
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        half, _, rest = key.partition(".")
        index, _, leaf = rest.partition(".")
        if half.startswith("taesd_") and not index.isdigit():
            raise FluxGuardError(f"Unknown weight '{key}' in a TAESD-layout autoencoder.")
        if half == "taesd_encoder":
            out[f"encoder.layers.{index}.{leaf}"] = tensor
        elif half == "taesd_decoder":
            out[f"decoder.layers.{int(index) - 1}.{leaf}"] = tensor
    return out


def diffusers_to_taesd(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AutoencoderTiny's names to TAESD's, with scale and shift set so that the host's FLUX latent is enc(x)."""
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        half, _, index, leaf = key.split(".", 3)
        at = int(index) + (half == "decoder")
        out[f"taesd_{half}.{at}.{leaf}"] = tensor
    out["vae_scale"] = torch.tensor(FLUX_SCALE)
    out["vae_shift"] = torch.tensor(FLUX_SHIFT)
    return out


class PooledBlock(nn.Module):
    """A residual block with a normalised branch before it, as FLUX.2's tiny autoencoder has at 1/8."""

    def __init__(self, block: Any, width: int) -> None:
        super().__init__()
        self.conv, self.skip, self.fuse = block.conv, block.skip, block.fuse
        self.pool = nn.Sequential(
            nn.Conv2d(width, 4 * width, 1, bias=False),
            nn.GroupNorm(4, 4 * width),
            nn.ReLU(),
            nn.Conv2d(4 * width, width, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pool(x)
        return self.fuse(self.conv(x) + self.skip(x))


def load_autoencoder_state(state: Mapping[str, Tensor]) -> AutoencoderTiny:
    """A ready float32 AutoencoderTiny from a TAESD file's tensors, without its dead channels."""
    converted = {k: v.float() for k, v in taesd_to_diffusers(state).items()}
    scale = float(state.get("vae_scale", torch.tensor(FLUX_SCALE)))
    shift = float(state.get("vae_shift", torch.tensor(FLUX_SHIFT)))
    latent = converted["decoder.layers.0.weight"].shape[1]
    autoencoder = _wide(latent, scale, shift)
    pooled = _with_pools(autoencoder, converted)
    try:
        autoencoder.load_state_dict(converted)
    except RuntimeError as error:
        raise FluxGuardError(f"Not a complete TAESD-layout autoencoder: {error}") from error
    return (autoencoder if pooled else drop_dead_channels(autoencoder)).eval()


def _with_pools(autoencoder: AutoencoderTiny, state: Mapping[str, Tensor]) -> bool:
    """Give the blocks their normalised branches where the file has them; whether it has any."""
    found = {
        (half, int(index))
        for half, _, index, *rest in (key.split(".") for key in state)
        if rest[:1] == ["pool"] and index.isdigit()
    }
    for half, index in found:
        layers = getattr(autoencoder, half).layers
        if index < len(layers) and _is_block(layers[index]):
            layers[index] = PooledBlock(layers[index], WIDTH)
    return bool(found)


def _is_block(layer: nn.Module) -> bool:
    return hasattr(layer, "conv") and hasattr(layer, "skip")


def _live_rows(conv: nn.Conv2d) -> Tensor:
    rows = conv.weight.detach().flatten(1).ne(0).any(1)
    return rows if conv.bias is None else rows | conv.bias.detach().ne(0)


def _sliced(conv: nn.Conv2d, rows: Tensor, columns: Tensor) -> nn.Conv2d:
    kept = nn.Conv2d(
        int(columns.sum()),
        int(rows.sum()),
        conv.kernel_size[0],
        conv.stride[0],
        int(conv.padding[0]),
        bias=conv.bias is not None,
    )
    with torch.no_grad():
        kept.weight.copy_(conv.weight[rows][:, columns])
        if conv.bias is not None and kept.bias is not None:
            kept.bias.copy_(conv.bias[rows])
    return kept


def _trunk(layers: Sequence[Any], start: int) -> Tensor:
    """Channels that are ever non-zero between the convolution at `start` and the next one."""
    live = _live_rows(layers[start])
    for layer in layers[start + 1 :]:
        if isinstance(layer, nn.Conv2d):
            break
        if _is_block(layer):
            live = live | _live_rows(layer.conv[4])
    return live


def _narrow_block(block: Any, trunk: Tensor) -> nn.Module:
    """The block on the live channels; one that adds nothing is only its closing ReLU."""
    if not bool(_live_rows(block.conv[4]).any()):
        return nn.ReLU()
    first, second = _live_rows(block.conv[0]), _live_rows(block.conv[2])
    for live in (first, second):
        live[0] |= not bool(live.any())  # a convolution needs a channel
    block.conv[0] = _sliced(block.conv[0], first, trunk)
    block.conv[2] = _sliced(block.conv[2], second, first)
    block.conv[4] = _sliced(block.conv[4], trunk, second)
    return block


def _narrow(layers: nn.Sequential) -> nn.Sequential:
    first: Any = layers[0]
    entering = torch.ones(first.in_channels, dtype=torch.bool)
    last = len(layers) - 1
    kept: list[Any] = []
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            every = torch.ones(layer.out_channels, dtype=torch.bool)
            trunk = every if i == last else _trunk(list(layers), i)
            layer = _sliced(layer, trunk, entering)
            entering = trunk
        elif _is_block(layer):
            layer = _narrow_block(layer, entering)
        kept.append(layer)
    return nn.Sequential(*kept)


def drop_dead_channels(autoencoder: AutoencoderTiny) -> AutoencoderTiny:
    """Remove, in place, the channels that are 0 for every picture; the function stays the same."""
    autoencoder.encoder.layers = _narrow(autoencoder.encoder.layers)
    autoencoder.decoder.layers = _narrow(autoencoder.decoder.layers)
    return autoencoder


def narrow_autoencoder(
    widths: Sequence[int], encoder_blocks: Sequence[int], decoder_blocks: Sequence[int]
) -> AutoencoderTiny:
    """A fresh narrow autoencoder: channels and residual blocks at full, 1/2, 1/4 and 1/8 resolution."""
    autoencoder = _wide(FLUX.channels, FLUX_SCALE, FLUX_SHIFT)
    halves = (
        (autoencoder.encoder.layers, list(widths), list(encoder_blocks)),
        (autoencoder.decoder.layers, list(widths)[::-1], list(decoder_blocks)[::-1]),
    )
    for layers, channels, depth in halves:
        stage, seen = -1, 0
        for i, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d) and i < len(layers) - 1:
                stage, seen = stage + 1, 0
                _silence(layer, channels[stage])
            elif _is_block(layer):
                seen += 1
                for conv in (layer.conv[0], layer.conv[2], layer.conv[4]):
                    _silence(conv, channels[stage])
                if seen > depth[stage]:
                    _silence(layer.conv[4], 0)
    return _fresh(drop_dead_channels(autoencoder))


def _silence(conv: nn.Conv2d, kept: int) -> None:
    with torch.no_grad():
        conv.weight[kept:] = 0
        if conv.bias is not None:
            conv.bias[kept:] = 0


def _fresh(autoencoder: AutoencoderTiny) -> AutoencoderTiny:
    """He initialisation for the narrow widths; residual branches start small."""
    for name, module in autoencoder.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if name.endswith("conv.4"):
                with torch.no_grad():
                    module.weight *= 0.2
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return autoencoder


def _pad(layers: nn.Sequential, template: nn.Sequential) -> None:
    """Write narrow weights into the corner of the wide ones, which are zeroed first."""
    with torch.no_grad():
        for wide in template.parameters():
            wide.zero_()
        for narrow, padded in zip(layers, template, strict=True):
            source, target = dict(narrow.named_parameters()), dict(padded.named_parameters())
            for name, tensor in source.items():
                target[name][tuple(slice(0, n) for n in tensor.shape)] = tensor


def padded_state(autoencoder: AutoencoderTiny) -> dict[str, Tensor]:
    """The TAESD file of a narrow autoencoder: zero-padded to the layout's 64 channels."""
    wide = _wide(FLUX.channels, FLUX_SCALE, FLUX_SHIFT)
    _pad(autoencoder.encoder.layers, wide.encoder.layers)
    _pad(autoencoder.decoder.layers, wide.decoder.layers)
    return diffusers_to_taesd(wide.state_dict())
