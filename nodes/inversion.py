"""RF Inversion: a picture back to noise, remembering the way."""

from __future__ import annotations

import re
from typing import Any

import torch
from comfy_api.latest import io

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.flow import SOLVERS, Block, Layout, flux_schedule, invert
from . import host
from .wires import CATEGORY, TrajectoryWire

_BLOCKS = re.compile(r"^(double|single)\s+(\d+)(?:\s*-\s*(\d+))?$")


def parse_blocks(text: str, layout: Layout) -> list[Block] | None:
    """ "single 20-37, double 3" -> blocks; empty text -> None, the published choice."""
    if not text.strip():
        return None
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


class RFInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_RFInversion",
            display_name="RF Inversion",
            category=CATEGORY,
            description="Walks a picture back to noise on FLUX and remembers every velocity, so that an edit can "
            "retrace it exactly.",
            search_aliases=[
                "inversion",
                "invert",
                "rf inversion",
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
                    "positive", tooltip="The prompt that describes the picture as it is."
                ),
                io.Latent.Input("latent", tooltip="The picture, from VAE Encode."),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Another schedule, falling to 0. Without it: FLUX's own for this size.",
                ),
                io.Int.Input(
                    "steps",
                    default=25,
                    min=1,
                    max=200,
                    tooltip="Number of intervals; ignored where SIGMAS are connected. Published: 25.",
                ),
                io.Combo.Input(
                    "solver",
                    options=list(SOLVERS),
                    default="midpoint",
                    tooltip="midpoint: published, 2 evaluations a step. fireflow: 1, still second order. euler: 1, first order.",
                ),
                io.Int.Input(
                    "value_intervals",
                    default=5,
                    min=0,
                    max=200,
                    tooltip="Keep attention values in the first so many intervals for Attention-V Injection. 0 keeps none and saves memory.",
                ),
                io.Float.Input(
                    "guidance",
                    default=1.0,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Set on a copy of the conditioning. Published: 1.0.",
                ),
                io.Combo.Input(
                    "tokens",
                    options=["image", "all"],
                    default="image",
                    advanced=True,
                    tooltip="Which values to keep. 'all' includes the text's, as in the published code; both prompts then need the same length.",
                ),
                io.String.Input(
                    "blocks",
                    default="",
                    advanced=True,
                    tooltip="Blocks whose values are kept, for instance: single 20-37, double 3. Empty: the published ones, single 20-37 of 38.",
                ),
                io.Combo.Input(
                    "storage",
                    options=["cpu", "pinned", "compute"],
                    default="pinned",
                    advanced=True,
                    tooltip="Where the record waits: pinned memory (fast copies, as far as ComfyUI's own limit allows), ordinary memory, or the GPU.",
                ),
                io.Combo.Input(
                    "storage_format",
                    options=["computed", "bf16", "fp8"],
                    default="computed",
                    advanced=True,
                    tooltip="Number format of the kept attention values. fp8 quarters float32, with about 3 % error.",
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
        steps: int,
        solver: Any,
        value_intervals: int,
        guidance: float,
        tokens: Any,
        blocks: str,
        storage: Any,
        storage_format: Any,
        sigmas: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        if host.edit_patches(model):
            raise FluxGuardError(
                f"This MODEL already carries {', '.join(host.edit_patches(model))}; an inversion through an edit "
                "would be wrong. Connect the MODEL from before the edit nodes."
            )
        host.check_conditioning(positive, "source prompt")
        chosen = parse_blocks(blocks, host.flux_layout(model))
        start = host.to_model_space(model, host.picture_latent(latent))
        tokens_in_picture = -(-start.shape[-2] // 2) * -(-start.shape[-1] // 2)
        grid = flux_schedule(steps, tokens_in_picture) if sigmas is None else sigmas
        count = grid.numel() - 1
        progress, preview = host.Progress(count), host.latent_preview(model)
        velocities, values = host.record_storage(storage, storage_format)
        trajectory = host.with_field(
            model,
            host.with_guidance(positive, guidance),
            lambda field: invert(
                field,
                start,
                grid,
                solver=solver,
                value_intervals=min(value_intervals, count),
                blocks=chosen,
                tokens=tokens,
                velocity_storage=velocities,
                value_storage=values,
                progress=lambda done, total, z: progress(done, preview(z)),
            ),
            shape=start.shape,
            sigmas=grid,
            solver=solver,
            raw=True,
        )
        noise = host.to_latent(model, trajectory.terminal)
        return io.NodeOutput(host.placed(trajectory, torch.device("cpu")), noise)
