"""Golden triples: what the authors' released code computed on small random networks."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from fluxguard_core.backends.flux import FluxField, Prompt, layout_of
from fluxguard_core.backends.flux_keys import flux_to_diffusers
from fluxguard_core.flow import Block, Layout
from fluxguard_core.recognition.encoder import FaceEncoder

FOLDER = Path(os.environ.get("FLUXGUARD_GOLDEN", Path(__file__).parents[1] / "golden"))
NAMES = sorted(
    path.name.removesuffix("_run.safetensors") for path in FOLDER.glob("*_run.safetensors")
)
TOLERANCE = 1e-4


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def _read(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    path = FOLDER / f"{name}.safetensors"
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
    return load_file(path), json.loads(metadata["config"])


@dataclass(frozen=True, eq=False)
class Run:
    """One run: inputs, expected tensors, settings and the network in float32."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    transformer: nn.Module

    def field(self, which: str) -> FluxField:
        guidance = self.config["inversion_guidance" if which == "source" else "generation_guidance"]
        prompt = Prompt(self.tensors[f"{which}_context"], self.tensors[f"{which}_pooled"])
        return FluxField(self.transformer, prompt, guidance, self.layout)

    @property
    def layout(self) -> Layout:
        return layout_of(self.transformer)

    @property
    def blocks(self) -> list[Block]:
        """``20..`` is open, ``20..23`` includes its end."""
        first, _, last = str(self.config["single_blocks_injected"]).partition("..")
        end = int(last) + 1 if last else self.layout.single_blocks
        return [Block("single", i) for i in range(int(first), end)]

    @property
    def mask(self) -> Tensor:
        """The token mask at latent resolution [B, 1, H, W]."""
        latent = self.tensors["latent"]
        tokens = self.tensors["mask_tokens"]
        grid = tokens.view(tokens.shape[0], 1, latent.shape[2] // 2, latent.shape[3] // 2)
        return grid.repeat_interleave(2, 2).repeat_interleave(2, 3)


def load_run(name: str) -> Run:
    tensors, config = _read(f"{name}_run")
    arguments, state = flux_to_diffusers(load_file(FOLDER / f"{name}_flux.safetensors"))
    transformer = FluxTransformer2DModel(**arguments)
    transformer.load_state_dict(state)
    return Run(tensors, config, transformer.float().eval())


class ToyEncoder(nn.Module):
    """tanh(adaptive_avg_pool2d(x, 8).flatten(1) @ W.T), x in [-1, 1]."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(F.adaptive_avg_pool2d(x, 8).flatten(1) @ self.weight.T)


@dataclass(frozen=True, eq=False)
class RefinerRun:
    tensors: dict[str, Tensor]
    config: dict[str, Any]

    def encoders(self) -> dict[str, FaceEncoder]:
        sizes: dict[str, int] = self.config["input_size"]
        return {
            name: FaceEncoder(name, ToyEncoder(self.tensors[f"encoder_{name}"]), size)
            for name, size in sizes.items()
        }

    def decode(self, latent: Tensor) -> Tensor:
        """tanh(bilinear_upsample_x8(einsum)), brought from [-1, 1] to [0, 1]."""
        colours = torch.einsum("oc,bchw->bohw", self.tensors["decoder_rgb_from_latent"], latent)
        large = F.interpolate(colours, scale_factor=8, mode="bilinear", align_corners=False)
        return ((torch.tanh(large) + 1) / 2).clamp(0, 1)

    def features(self, picture: Tensor) -> Tensor:
        return F.conv2d(picture, self.tensors["perceptual_kernel"], padding=1)


def load_refiner(name: str) -> RefinerRun:
    return RefinerRun(*_read(f"{name}_refiner"))
