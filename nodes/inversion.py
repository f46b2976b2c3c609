"""RF Inversion: a picture back to noise, remembering the way."""

from __future__ import annotations

import re
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.backends.geometry import FLUX
from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.flow import Block, Layout, Trajectory, flux_schedule, invert
from ..fluxguard_core.flow.controls import paper_injection
from ..fluxguard_core.protect.presets import preset_named
from . import host
from .given import samples_of
from .node import Node
from .options import PRESET_NAMES, InversionOptions
from .wires import CATEGORY, InversionOptionsWire, TrajectoryWire

_BLOCKS = re.compile(r"^(double|single)\s+(\d+)(?:\s*-\s*(\d+))?$")


def parse_blocks(text: str, layout: Layout) -> list[Block]:
    """ "single 20-37, double 3" -> blocks."""
    depth = {"double": layout.double_blocks, "single": layout.single_blocks}
    blocks: list[Block] = []
    for part in text.split(","):
        match = _BLOCKS.match(part.strip().lower())
        if match is None:
            raise FluxGuardError(
                f"Could not read the blocks '{part.strip()}'. Write for instance: single 20-37, double 3"
            )
        kind, first, last = match[1], int(match[2]), int(match[3] or match[2])
        if not first <= last < depth[kind]:
            raise FluxGuardError(
                f"This model has {kind} blocks 0 to {depth[kind] - 1}, but '{part.strip()}' was asked for."
            )
        blocks += [
            Block("double" if kind == "double" else "single", i) for i in range(first, last + 1)
        ]
    return blocks


class RFInversion(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_RFInversion",
            display_name="RF Inversion",
            category=CATEGORY,
            description="Walks a picture back to noise on FLUX and remembers every velocity, so that an edit can "
            "retrace it exactly.",
            search_aliases=[
                "edit and protect a face",
                "edit a portrait",
                "inversion",
                "invert",
                "unsample",
                "rf-edit",
                "fireflow",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="FLUX.1, without FluxGuard's edit patches. LoRA, fp8 and GGUF are fine.",
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The prompt that describes the picture as it is. Without a guidance of its own it gets 1.0, as published.",
                ),
                io.Latent.Input("latent", tooltip="The picture, from VAE Encode."),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Another schedule, falling to 0. Without it: FLUX's own for this size.",
                ),
                InversionOptionsWire.Input(
                    "options",
                    optional=True,
                    tooltip="From Inversion Options, to see and change the preset's numbers.",
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESET_NAMES),
                    default="default",
                    tooltip="Travels with the trajectory, so the nodes behind follow. paper: the published method. default: better in several points. fast: half the evaluations.",
                ),
                io.Int.Input(
                    "steps",
                    default=25,
                    min=1,
                    max=200,
                    tooltip="Number of intervals; SIGMAS bring their own. Published: 25.",
                ),
            ],
            outputs=[
                TrajectoryWire.Output(
                    display_name="trajectory", tooltip="The whole way, for the edit nodes."
                ),
                io.Latent.Output(
                    display_name="noise_latent", tooltip="Where the inversion ended, to look at."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: dict[str, Any],
        preset: str,
        steps: int,
        sigmas: torch.Tensor | None = None,
        options: InversionOptions | None = None,
    ) -> io.NodeOutput:
        if host.edit_patches(model):
            raise FluxGuardError(
                f"This MODEL already carries {', '.join(host.edit_patches(model))}; an inversion through an edit "
                "would be wrong. Connect the MODEL from before the edit nodes."
            )
        host.check_conditioning(positive, "source prompt")
        named = preset_named(preset)
        options = options or InversionOptions(named.recipe)
        start = host.to_model_space(model, host.picture_latent(samples_of(latent)))
        grid = _schedule(steps, start) if sigmas is None else sigmas
        trajectory = _inverted(model, positive, start, grid, options, named.source_guidance)
        noise = host.to_latent(model, trajectory.terminal)
        return io.NodeOutput(host.placed(trajectory, torch.device("cpu")), noise)


def _schedule(steps: int, latent: Tensor) -> Tensor:
    """FLUX's own schedule for a latent [B, C, h, w]."""
    return flux_schedule(steps, FLUX.tokens_of((latent.shape[-2], latent.shape[-1])))


def _inverted(
    model: Any,
    positive: Any,
    start: Tensor,
    grid: Tensor,
    options: InversionOptions,
    guidance: float,
) -> Trajectory:
    """The inversion of a latent in model space, seen by the progress bar."""
    recipe, count = options.recipe, grid.numel() - 1
    keep = options.value_intervals
    if keep is None:
        keep = paper_injection(count, 1.0) if recipe.injected is None else recipe.injected
    layout = host.flux_layout(model)
    blocks = None if options.blocks is None else parse_blocks(options.blocks, layout)
    conditioning, _ = host.with_guidance(model, positive, "source prompt", guidance)
    progress, preview = host.Progress(count), host.latent_preview(model)
    velocities, values = host.record_storage(options.storage, options.storage_format)
    return host.with_field(
        model,
        conditioning,
        lambda field: invert(
            field,
            start,
            grid,
            solver=recipe.solver,
            value_intervals=min(keep, count),
            blocks=blocks,
            tokens=recipe.tokens,
            recipe=recipe,
            velocity_storage=velocities,
            value_storage=values,
            progress=lambda done, total, z: progress(done, preview(z)),
        ),
        shape=start.shape,
        sigmas=grid,
        solver=recipe.solver,
        raw=True,
    )
