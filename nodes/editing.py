"""The edit controls as patches on a MODEL: structure, and what must not change."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.flow import Trajectory, ValueInjection, VelocityFusion
from ..fluxguard_core.flow.controls import paper_injection, paper_window
from ..fluxguard_core.regions import coverage
from . import host
from .given import latent_mask, optional_masks
from .node import Node
from .wires import AS_INVERTED, CATEGORY, TrajectoryWire


class AttentionVInjection(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        first_intervals = io.Int.Input(
            "intervals",
            default=5,
            min=1,
            max=200,
            tooltip="The first so many. Published: 5 of 25, or 3 for a small mask.",
        )
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
                    "trajectory", tooltip="From RF Inversion; it keeps the attention values."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What may change, as for Velocity Fusion. Small parts are held less, as published.",
                ),
                io.DynamicCombo.Input(
                    "window",
                    options=[
                        io.DynamicCombo.Option(AS_INVERTED, []),
                        io.DynamicCombo.Option("all kept", []),
                        io.DynamicCombo.Option("custom", [first_intervals]),
                    ],
                    tooltip="Intervals to act in. as inverted: the first 5 of 25, scaled, or 3 where the connected mask covers under a tenth. all kept: as many as the inversion kept.",
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
                    options=[AS_INVERTED, "image", "all"],
                    default=AS_INVERTED,
                    tooltip="'image' leaves the text's values alone, so that prompts may differ in length. 'all': as in the published code.",
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
        window: dict[str, Any],
        strength: float,
        tokens: Any,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        if not trajectory.value_intervals and strength:
            raise FluxGuardError(
                "The trajectory holds no attention values, so there is nothing to inject.",
                "Raise value_intervals on Inversion Options, or bypass this node.",
            )
        count = _injected(trajectory, window, mask)
        whose = trajectory.recipe.tokens if tokens == AS_INVERTED else tokens
        injection = ValueInjection(trajectory, count, tokens=whose, strength=strength)
        return io.NodeOutput(host.inject_values(model, injection))


def _injected(trajectory: Trajectory, window: dict[str, Any], mask: Tensor | None) -> int:
    """How many first intervals a choice means."""
    kept, kind = trajectory.value_intervals, window["window"]
    if kind != AS_INVERTED:
        return kept if kind == "all kept" else int(window["intervals"])
    planned = trajectory.recipe.injected
    if planned is None:
        masks = optional_masks(mask)
        covered = 1.0 if masks is None else coverage(masks)
        planned = paper_injection(trajectory.intervals, covered)
    return min(kept, planned)


class VelocityFusionNode(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_VelocityFusion",
            display_name="Velocity Fusion (mask-guided)",
            category=CATEGORY,
            description="Keeps everything outside the mask: there the recorded velocity replaces the edit's, so "
            "the background comes back exactly.",
            search_aliases=[
                "edit and protect a face",
                "inpaint",
                "mask",
                "background",
                "velocity",
                "keep background",
            ],
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
                io.DynamicCombo.Input(
                    "window",
                    options=[
                        io.DynamicCombo.Option(AS_INVERTED, []),
                        io.DynamicCombo.Option("all", []),
                        io.DynamicCombo.Option("paper", []),
                        io.DynamicCombo.Option("custom", _window_inputs()),
                    ],
                    tooltip="Intervals to act in. 'all' keeps the background exactly. 'paper' fuses in 5..19 of 25, as published; the background then drifts a little. 'as inverted': what the trajectory's preset says.",
                ),
                io.Combo.Input(
                    "order",
                    options=[AS_INVERTED, "aligned", "released"],
                    default=AS_INVERTED,
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
        window: dict[str, Any],
        order: Any,
    ) -> io.NodeOutput:
        recipe, grid = trajectory.recipe, trajectory.source.shape
        soft = latent_mask(mask, (grid[-2], grid[-1]), grid[0])
        order = recipe.order if order == AS_INVERTED else order
        fusion = VelocityFusion(trajectory, soft, _window(trajectory, window), order)
        return io.NodeOutput(host.fuse_velocities(model, fusion))


def _window_inputs() -> list[Any]:
    return [
        io.Int.Input("first", default=0, min=0, max=199, tooltip="The first interval fused."),
        io.Int.Input("last", default=24, min=0, max=199, tooltip="The last interval fused."),
    ]


def _window(trajectory: Trajectory, window: dict[str, Any]) -> tuple[int, int]:
    """The first interval of a choice, and the one after its last."""
    count, kind = trajectory.intervals, window["window"]
    if kind == AS_INVERTED:
        kind = trajectory.recipe.window
    if kind != "custom":
        return (0, count) if kind == "all" else paper_window(count)
    first, last = window["first"], window["last"]
    if not first <= last < count:
        raise FluxGuardError(
            f"Expected a window inside the trajectory's intervals 0 to {count - 1}, got {first} to {last}.",
            "Change ‹give first› and ‹give last›.",
        )
    return first, last + 1
