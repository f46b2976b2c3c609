"""The adaptive adversarial latent refiner as nodes: while an edit is generated, or on any finished latent."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.flow import Trajectory
from ..fluxguard_core.protect.identity import similarities
from ..fluxguard_core.protect.run import Protection, edit_and_protect, protect_latent
from . import host
from .faces import told_faceless
from .preparation import iterates_of, prepare
from .protection_inputs import Wishes, protection_inputs, wishes_of
from .wires import CATEGORY, TrajectoryWire


class LatentRefiner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_LatentRefiner",
            display_name="Adaptive Adversarial Latent Refiner",
            category=CATEGORY,
            description="Generates the edit and its protected twin: in the last intervals the latent moves until the "
            "recognisers no longer match the face.",
            search_aliases=["protect", "privacy", "adversarial", "cloak", "face protection"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="FLUX.1 with the edit patches: Attention-V Injection and Velocity Fusion.",
                ),
                io.Conditioning.Input("positive", tooltip="The target prompt."),
                TrajectoryWire.Input("trajectory", tooltip="From RF Inversion of the picture."),
                *protection_inputs(),
                io.Float.Input(
                    "guidance",
                    default=5.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Set on a copy of the conditioning. Published: 5.5.",
                ),
                io.Combo.Input(
                    "solver",
                    options=["trajectory's", "midpoint", "fireflow", "euler"],
                    default="trajectory's",
                    advanced=True,
                    tooltip="How the edit steps; normally as the inversion did.",
                ),
                io.Boolean.Input(
                    "one_batch",
                    default=True,
                    advanced=True,
                    tooltip="Run edit and twin as one batch. Off: one after the other, slower, in less memory.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="protected", tooltip="The protected edit, for VAE Decode."
                ),
                io.Latent.Output(
                    display_name="edited",
                    tooltip="The same edit without protection, for VAE Decode.",
                ),
                io.Mask.Output(
                    display_name="region",
                    tooltip="Where the protection acted, softly, for pasting the face back.",
                ),
                io.String.Output(
                    display_name="report", tooltip="What happened, interval by interval."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        trajectory: Trajectory,
        guidance: float,
        solver: Any,
        one_batch: bool,
        **given: Any,
    ) -> io.NodeOutput:
        host.check_conditioning(positive, "target prompt")
        wishes = wishes_of(given)
        trajectory = host.placed(trajectory, model.load_device)
        decoder = host.picture_decoder(wishes.vae)

        def from_model(samples: Tensor) -> Tensor:
            return model.model.process_latent_out(samples)

        preset, count = wishes.preset, trajectory.intervals
        total = count + preset.attacked * iterates_of(preset)
        progress = host.Progress(total)
        preview = host.latent_preview(model)
        prepared = prepare(wishes, decoder, trajectory.source, from_model, progress, count)
        steps_with = solver if solver != "trajectory's" else trajectory.solver
        branches = torch.Size((2 * trajectory.source.shape[0], *trajectory.source.shape[1:]))
        result = host.with_field(
            host.with_models(model, prepared.networks, prepared.working_bytes),
            host.with_guidance(positive, guidance),
            lambda field: edit_and_protect(
                field,
                trajectory,
                (),
                prepared.refiner,
                attacked_intervals=preset.attacked,
                solver=steps_with,
                window=prepared.window,
                region=prepared.refiner.region,
                one_batch=one_batch,
                progress=lambda done, _, z: progress(
                    prepared.done(done - count + preset.attacked, done), preview(z)
                ),
            ),
            shape=branches,
            sigmas=trajectory.sigmas,
            solver=steps_with,
            follows=trajectory,
        )
        progress(total)
        patches = ", ".join(host.edit_patches(model)) or "none (a plain generation)"
        edited = host.to_latent(model, result.edited)
        protected = host.to_latent(model, result.protected)
        return io.NodeOutput(
            _passing(protected, edited["samples"], prepared.faceless),
            edited,
            prepared.region,
            f"{_warned(prepared.faceless)}Edit patches: {patches}\n{_told(result, wishes)}",
        )


class ProtectLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_ProtectLatent",
            display_name="Protect Latent",
            category=CATEGORY,
            description="Protects a picture that exists already, from any model: the refiner without an edit. No "
            "FLUX needed, only the VAE that encoded it.",
            search_aliases=["protect", "privacy", "cloak", "existing picture", "face protection"],
            inputs=[
                io.Latent.Input(
                    "latent", tooltip="The picture, from VAE Encode with the VAE below."
                ),
                *protection_inputs(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="protected", tooltip="The protected picture, for VAE Decode."
                ),
                io.Mask.Output(
                    display_name="region",
                    tooltip="Where the protection acted, softly, for pasting the face back.",
                ),
                io.String.Output(display_name="report", tooltip="What happened, round by round."),
            ],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], **given: Any) -> io.NodeOutput:
        wishes = wishes_of(given)
        samples = latent["samples"]
        if getattr(samples, "is_nested", False) or samples.ndim != 4:
            raise FluxGuardError(
                f"Expected the latent of a picture [batch, channels, height, width], got {list(samples.shape)}. "
                "Encode the picture with VAE Encode."
            )
        samples = samples.to(host.working_device(), torch.float32)
        # Latents of other models are scaled to unit spread, for which the learning rate was chosen; each by
        # itself, so that no picture's result depends on its batch mates.
        unit = samples.flatten(1).std(1)[:, None, None, None]
        if not bool((unit > 0).all()):
            raise FluxGuardError(
                "The latent is empty, so there is nothing to protect. Encode a picture."
            )
        decoder = host.picture_decoder(wishes.vae)
        rounds = wishes.preset.attacked
        progress = host.Progress(rounds * iterates_of(wishes.preset))
        prepared = prepare(wishes, decoder, samples / unit, lambda z: z * unit, progress, 0)
        host.load_together(prepared.networks, prepared.working_bytes)
        result = protect_latent(
            samples / unit, prepared.refiner, rounds=rounds, window=prepared.window
        )
        progress(progress.total)
        protected = {"samples": (result.protected * unit).to(latent["samples"].device)}
        return io.NodeOutput(
            _passing(protected, latent["samples"], prepared.faceless),
            prepared.region,
            f"{_warned(prepared.faceless)}{_told(result, wishes)}",
        )


def _passing(protected: dict[str, Any], plain: Tensor, faceless: tuple[int, ...]) -> dict[str, Any]:
    """A LATENT whose pictures without a face are the plain ones, bit for bit."""
    samples = protected["samples"].clone()
    for number in faceless:
        samples[number] = plain[number].to(samples)
    return {**protected, "samples": samples}


def _warned(faceless: tuple[int, ...]) -> str:
    """The report's first line where pictures stay unprotected, told on the node and in the log as well."""
    if not faceless:
        return ""
    host.warn(told_faceless(faceless))
    return f"{told_faceless(faceless)}\n"


def _told(result: Protection, wishes: Wishes) -> str:
    """The log in words: the last iterate of every interval."""
    last = {entry.interval: entry for entry in result.log}
    lines = [f"Preset {wishes.preset.name}, identity {wishes.identity.kind}"]
    for interval, entry in last.items():
        similar = ", ".join(
            f"{name} {value:.2f}" for name, value in similarities(entry, "source").items()
        )
        aimed = ", ".join(
            f"{name} {value:.2f}" for name, value in similarities(entry, "target").items()
        )
        parts = [
            f"interval {interval}: {entry.step + 1} iterates, loss {entry.losses['identity']:.3f}"
        ]
        parts.append(f"visible difference {entry.losses['perceptual']:.4f}")
        parts += [f"similarity to the person: {similar}"] if similar else []
        parts += [f"to the target: {aimed}"] if aimed else []
        parts += ["goal reached"] if entry.met else []
        lines.append("; ".join(parts))
    return "\n".join(lines)
