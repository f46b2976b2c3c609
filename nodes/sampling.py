"""The edit in the stock sampler graph: where to start, and how to step."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..fluxguard_core.flow import Trajectory
from ..fluxguard_core.flow.solvers import solver_named
from . import host
from .node import Node
from .wires import CATEGORY, TrajectoryWire


class TrajectoryStart(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_TrajectoryStart",
            display_name="Trajectory Start",
            category=CATEGORY,
            description="NOISE, SIGMAS, LATENT and SAMPLER with which SamplerCustomAdvanced starts exactly where the "
            "inversion ended, and steps as it did.",
            search_aliases=[
                "noise",
                "sigmas",
                "start latent",
                "resample",
                "rf sampler",
                "rf-solver",
            ],
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
                io.Sampler.Output(
                    tooltip="The inversion's own solver; connect to SamplerCustomAdvanced."
                ),
            ],
        )

    @classmethod
    def execute(cls, model: Any, trajectory: Trajectory) -> io.NodeOutput:
        trajectory.check_model(host.flux_layout(model))
        latent = host.to_latent(model, trajectory.source)
        sampler = host.flow_sampler(solver_named(trajectory.solver).name)
        sigmas = trajectory.sigmas.float()
        return io.NodeOutput(host.TrajectoryNoise(trajectory), sigmas, latent, sampler)
