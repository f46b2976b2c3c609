"""The edit controls as patches on a MODEL: structure, and what must not change."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.flow import Trajectory, ValueInjection, VelocityFusion
from ..fluxguard_core.flow.controls import paper_window
from . import host
from .wires import CATEGORY, TrajectoryWire, latent_mask


class AttentionVInjection(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_AttentionVInjection",
            display_name="Attention-V Injection",
            category=CATEGORY,
            description="Keeps the picture's structure: attention values of the inversion replace the edit's in "
            "the first intervals.",
            search_aliases=["attention injection", "value injection", "structure", "rf-edit"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The MODEL to edit with. Patches stack, in any order."
                ),
                TrajectoryWire.Input(
                    "trajectory", tooltip="From RF Inversion, with value intervals."
                ),
                io.Int.Input(
                    "intervals",
                    default=0,
                    min=0,
                    max=200,
                    tooltip="Act in the first so many intervals; 0 means as many as the inversion kept. Published: 5 of 25, or 3 for a small mask.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="1 uses the recorded values alone, 0 switches the injection off.",
                ),
                io.Combo.Input(
                    "tokens",
                    options=["image", "all"],
                    default="image",
                    advanced=True,
                    tooltip="'image' leaves the text's values alone, so that prompts may differ in length. 'all': as in the published code.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="A patched clone; the MODEL that came in is unchanged.")
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, trajectory: Trajectory, intervals: int, strength: float, tokens: Any
    ) -> io.NodeOutput:
        if not trajectory.value_intervals and strength:
            raise FluxGuardError(
                "The trajectory holds no attention values, so there is nothing to inject. Raise value_intervals on "
                "RF Inversion, or bypass this node."
            )
        count = intervals or trajectory.value_intervals
        injection = ValueInjection(trajectory, count, tokens=tokens, strength=strength)
        return io.NodeOutput(host.inject_values(model, injection))


class VelocityFusionNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_VelocityFusion",
            display_name="Velocity Fusion (mask-guided)",
            category=CATEGORY,
            description="Keeps everything outside the mask: there the recorded velocity replaces the edit's, so "
            "the background comes back exactly.",
            search_aliases=["inpaint", "mask", "background", "velocity", "keep background"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The MODEL to edit with. Several fusions stack; then only what all masks cover changes.",
                ),
                TrajectoryWire.Input(
                    "trajectory", tooltip="From RF Inversion of the same picture."
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="White may change, black stays. Of the picture that was encoded.",
                ),
                io.Combo.Input(
                    "window",
                    options=["all", "paper"],
                    default="all",
                    tooltip="'all' intervals keeps the background exactly. 'paper' fuses in 5..19 of 25, as published; the background then drifts a little.",
                ),
                io.Int.Input(
                    "first_interval",
                    default=-1,
                    min=-1,
                    max=200,
                    advanced=True,
                    tooltip="First interval of a window of your own; -1 takes the window above.",
                ),
                io.Int.Input(
                    "end_interval",
                    default=-1,
                    min=-1,
                    max=200,
                    advanced=True,
                    tooltip="The interval after the last one; -1 takes the window above.",
                ),
                io.Combo.Input(
                    "order",
                    options=["aligned", "released"],
                    default="aligned",
                    advanced=True,
                    tooltip="'aligned' uses the velocity of the same interval. 'released' repeats the published code, which reads the record backwards.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="A patched clone; the MODEL that came in is unchanged.")
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        trajectory: Trajectory,
        mask: Tensor,
        window: str,
        first_interval: int,
        end_interval: int,
        order: Any,
    ) -> io.NodeOutput:
        count = trajectory.intervals
        first, end = (0, count) if window == "all" else paper_window(count)
        first = first if first_interval < 0 else first_interval
        end = end if end_interval < 0 else end_interval
        if not 0 <= first < end <= count:
            raise FluxGuardError(
                f"Expected a window inside the {count} intervals of the trajectory, got {first} to {end}. Lower "
                "first_interval and end_interval, or set both to -1."
            )
        batch, _, height, width = trajectory.source.shape
        soft = latent_mask(mask, (height, width), batch)
        fusion = VelocityFusion(trajectory, soft, (first, end), order)
        return io.NodeOutput(host.fuse_velocities(model, fusion))
