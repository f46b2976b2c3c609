"""The edit in the stock sampler graph: where to start, and how to step."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..fluxguard_core.flow import SOLVERS, Trajectory
from . import host
from .wires import CATEGORY, TrajectoryWire


class TrajectoryStart(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_TrajectoryStart",
            display_name="Trajectory Start",
            category=CATEGORY,
            description="NOISE, SIGMAS and LATENT with which SamplerCustomAdvanced starts exactly where the "
            "inversion ended.",
            search_aliases=["noise", "sigmas", "start latent", "resample"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL, for its latent format."),
                TrajectoryWire.Input("trajectory", tooltip="From RF Inversion or Load Trajectory."),
            ],
            outputs=[
                io.Noise.Output(tooltip="Connect to SamplerCustomAdvanced."),
                io.Sigmas.Output(
                    tooltip="The inversion's own schedule; connect to SamplerCustomAdvanced."
                ),
                io.Latent.Output(tooltip="The picture; connect to SamplerCustomAdvanced."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, trajectory: Trajectory) -> io.NodeOutput:
        trajectory.check_model(host.flux_layout(model))
        latent = host.to_latent(model, trajectory.source)
        return io.NodeOutput(host.TrajectoryNoise(trajectory), trajectory.sigmas.float(), latent)


class RFSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_RFSampler",
            display_name="RF Sampler",
            category=CATEGORY,
            description="The solvers of RF Inversion as a SAMPLER, for exact edits in the stock sampler graph.",
            search_aliases=["midpoint", "fireflow", "euler", "rf-solver"],
            inputs=[
                io.Combo.Input(
                    "solver",
                    options=list(SOLVERS),
                    default="midpoint",
                    tooltip="midpoint: 2 evaluations a step. fireflow: 1 evaluation, second order. euler: first order.",
                ),
            ],
            outputs=[io.Sampler.Output(tooltip="Connect to SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, solver: Any) -> io.NodeOutput:
        return io.NodeOutput(host.flow_sampler(solver))
