"""The adaptive adversarial latent refiner while an edit is generated."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..fluxguard_core.flow import SolverName, Trajectory
from ..fluxguard_core.flow.solvers import solver_named
from ..fluxguard_core.protect.run import Protection, edit_and_protect
from . import host
from .node import Node
from .options import PRESET_NAMES
from .preparation import Prepared, iterates_of, look, prepare, whereabouts
from .protection_inputs import Wishes, protection_inputs, wishes_of
from .protection_report import heading, passing, told, warned
from .wires import AS_INVERTED, CATEGORY, TrajectoryWire, shown, to_image
from .words import NODES
from .worlds import check_pictures, face_finder, model_knower, recognisers, vae_knower


class LatentRefiner(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_LatentRefiner",
            display_name="Adaptive Adversarial Latent Refiner",
            category=CATEGORY,
            description="Generates the edit and its protected twin: in the last intervals the latent moves until the "
            "recognisers no longer match the face.",
            search_aliases=[
                "edit and protect a face",
                "protect",
                "privacy",
                "adversarial",
                "cloak",
                "face protection",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="FLUX.1 with the edit patches: Attention-V Injection and Velocity Fusion.",
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The target prompt. Without a guidance of its own it gets 5.5, as published.",
                ),
                TrajectoryWire.Input("trajectory", tooltip="From RF Inversion of the picture."),
                *protection_inputs([AS_INVERTED, *PRESET_NAMES]),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="protected",
                    tooltip="The protected edit, for VAE Decode or Keep Photo Pixels.",
                ),
                io.Latent.Output(
                    display_name="edited",
                    tooltip="The same edit without protection, for VAE Decode or Keep Photo Pixels.",
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
        cls, model: Any, positive: Any, trajectory: Trajectory, preset: str, **given: Any
    ) -> io.NodeOutput:
        host.check_conditioning(positive, "target prompt")
        wishes = wishes_of(given, trajectory.recipe.name if preset == AS_INVERTED else preset)
        positive, note = host.with_guidance(
            model, positive, "target prompt", wishes.preset.guidance
        )
        trajectory = host.placed(trajectory, model.load_device)
        prepared, result = _edited_and_protected(model, positive, trajectory, wishes)
        patches = ", ".join(host.edit_patches(model)) or "none (a plain generation)"
        edited = host.to_latent(model, result.edited)
        if prepared.turns.failure is not None:
            # The edit is worth having; an unprotected picture under the name of a protected one is not.
            failed = prepared.turns.failure.told(NODES)
            return io.NodeOutput(
                host.blocked(failed), edited, host.blocked(failed), f"NOT PROTECTED. {failed}"
            )
        protected = host.to_latent(model, result.protected)
        report = "\n".join(
            [
                *warned(prepared.faceless),
                *([note] if note else ()),
                f"Edit patches: {patches}",
                heading(wishes),
                *told(result.log),
            ]
        )
        return io.NodeOutput(
            passing(protected, edited["samples"], prepared.faceless),
            edited,
            prepared.region,
            report,
            ui=shown(cls, to_image(prepared.seen), report),
        )


def _edited_and_protected(
    model: Any, positive: Any, trajectory: Trajectory, wishes: Wishes
) -> tuple[Prepared, Protection]:
    """The edit and its protected twin in model space, seen by the progress bar."""
    preset, options, count = wishes.preset, wishes.options, trajectory.intervals
    total = count + preset.attacked * iterates_of(preset)
    progress, preview = host.Progress(total), host.latent_preview(model)
    decoder = host.picture_decoder(wishes.vae)
    to_samples = model.model.process_latent_out
    picture = look(decoder, to_samples(trajectory.source))
    located = whereabouts(wishes, picture)
    known = [model_knower(model), vae_knower(wishes.vae), *face_finder(wishes.faces)]
    known += recognisers(wishes.ensemble.members)
    check_pictures(picture, located.by_picture, known)
    prepared = prepare(
        wishes, decoder, trajectory.source, picture, located, to_samples, progress, count
    )
    solver: SolverName = options.solver or solver_named(trajectory.solver).name
    branches = torch.Size((2 * trajectory.source.shape[0], *trajectory.source.shape[1:]))
    result = host.with_field(
        prepared.turns.with_model(model),
        positive,
        lambda field: edit_and_protect(
            field,
            trajectory,
            (),
            prepared.turns.refining(prepared.refiner),
            attacked_intervals=preset.attacked,
            solver=solver,
            window=prepared.window,
            region=prepared.refiner.region,
            one_batch=options.one_batch,
            progress=lambda done, _, z: progress(
                prepared.done(done - count + preset.attacked, done), preview(z)
            ),
        ),
        shape=branches,
        sigmas=trajectory.sigmas,
        solver=solver,
        follows=trajectory,
    )
    progress(total)
    return prepared, result
