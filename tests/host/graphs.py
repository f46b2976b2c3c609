"""Graphs in API format, node by node."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .server import Graph, Outcome, Server

Link = list[Any]


@dataclass
class Builder:
    """Collects nodes; ``add`` returns the node's id, ``link`` one of its outputs."""

    graph: Graph = field(default_factory=dict)

    def add(self, kind: str, /, **inputs: Any) -> str:
        name = str(len(self.graph) + 1)
        self.graph[name] = {"class_type": kind, "inputs": inputs}
        return name

    def link(self, kind: str, /, output: int = 0, **inputs: Any) -> Link:
        return [self.add(kind, **inputs), output]


@dataclass
class GoldenGraph(Builder):
    """The golden network inverted; everything an edit of it needs."""

    dtype: str = "default"
    solver: str = "midpoint"
    copies: int = 1
    crop: int = 0
    model: Link = field(init=False)
    source: Link = field(init=False)
    latent: Link = field(init=False)
    inversion: str = field(init=False)

    def __post_init__(self) -> None:
        self.model = self.link(
            "UNETLoader", unet_name="open_flux.safetensors", weight_dtype=self.dtype
        )
        self.source = self.prompt("source")
        self.latent = self.link(
            "Probe_Latent",
            latent="run.safetensors:latent",
            copies=self.copies,
            crop=self.crop,
            noise_mask=False,
        )
        self.inversion = self.invert(self.model)

    def prompt(self, which: str) -> Link:
        file = "run.safetensors"
        return self.link(
            "Probe_Conditioning", context=f"{file}:{which}_context", pooled=f"{file}:{which}_pooled"
        )

    def invert(self, model: Link, **changes: Any) -> str:
        inputs: dict[str, Any] = {
            "model": model,
            "positive": self.source,
            "latent": self.latent,
            "options": self.options(),
            "preset": "default",
            "steps": 10,
        }
        return self.add("FluxGuard_RFInversion", **{**inputs, **changes})

    def options(self, **changes: Any) -> Link:
        """What the golden run kept: all tokens' values of the last blocks in three intervals."""
        inputs: dict[str, Any] = {
            "preset": "default",
            "preset.solver": self.solver,
            "preset.value_intervals": 3,
            "preset.tokens": "all",
            "blocks": "custom",
            "blocks.names": "single 20-23",
            "storage": "cpu",
            "storage_format": "computed",
        }
        return self.link("FluxGuard_InversionOptions", **{**inputs, **changes})

    @property
    def trajectory(self) -> Link:
        return [self.inversion, 0]

    def inject(self, model: Link, **changes: Any) -> Link:
        inputs: dict[str, Any] = {
            "trajectory": self.trajectory,
            "window": "all kept",
            "strength": 1.0,
            "tokens": "as inverted",
        }
        return self.link("FluxGuard_AttentionVInjection", model=model, **{**inputs, **changes})

    def fuse(self, model: Link, times: float = 1.0, **changes: Any) -> Link:
        mask = self.link("Probe_Mask", mask="run.safetensors:mask", times=times)
        inputs: dict[str, Any] = {
            "trajectory": self.trajectory,
            "mask": mask,
            "window": "as inverted",
            "order": "as inverted",
        }
        return self.link("FluxGuard_VelocityFusion", model=model, **{**inputs, **changes})

    def sample(
        self, model: Link, sampler: Link | None = None, prompt: str = "target", **changes: Any
    ) -> str:
        """The stock sampler graph; saves the latent and returns the saving node's id."""
        start = self.add("FluxGuard_TrajectoryStart", model=self.model, trajectory=self.trajectory)
        conditioning = self.link("FluxGuidance", conditioning=self.prompt(prompt), guidance=5.5)
        inputs: dict[str, Any] = {
            "noise": [start, 0],
            "guider": self.link("BasicGuider", model=model, conditioning=conditioning),
            "sampler": sampler or [start, 3],
            "sigmas": [start, 1],
            "latent_image": [start, 2],
        }
        samples = self.link("SamplerCustomAdvanced", **{**inputs, **changes})
        return self.add("SaveLatent", samples=samples, filename_prefix="latents/test")


def saved_latent(server: Server, outcome: Outcome, node: str) -> Tensor:
    """A saved latent in model space."""
    (entry,) = outcome.outputs[node]["latents"]
    samples = load_file(server.output_file(entry))["latent_tensor"]
    return (samples - 0.1159) * 0.3611


def saved_trajectory(server: Server, prefix: str = "fluxguard/trajectory") -> Path:
    """The newest trajectory file."""
    folder = server.base / "output" / Path(prefix).parent
    return max(folder.glob("*.trajectory.safetensors"), key=lambda path: path.stat().st_mtime_ns)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def pack(latent: Tensor) -> Tensor:
    """[B, C, H, W] -> tokens [B, H/2 · W/2, 4C], channels (c ph pw)."""
    b, c, h, w = latent.shape
    return latent.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, -1, 4 * c)


def golden_run(server: Server) -> dict[str, torch.Tensor]:
    """Inputs and expected tensors of the golden run."""
    return load_file(server.base / "input" / "run.safetensors")
