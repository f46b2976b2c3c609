"""The adaptive adversarial latent refiner as nodes: while an edit is generated, or on any finished latent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.flow import Trajectory
from ..fluxguard_core.protect.assemble import assemble_refiner, blending_mask
from ..fluxguard_core.protect.perceptual import (
    PerceptualDistance,
    VGG19Features,
    feature_distance,
    vgg19_relu3_4,
)
from ..fluxguard_core.protect.presets import Preset, preset_named
from ..fluxguard_core.protect.refiner import Refiner, RefinerStep
from ..fluxguard_core.protect.region import Window
from ..fluxguard_core.protect.run import Protection, edit_and_protect, protect_latent
from ..fluxguard_core.recognition import Ensemble, Identity
from . import folders, host
from .faces import face_inputs, find_landmarks
from .wires import CATEGORY, EnsembleWire, IdentityWire, TrajectoryWire, latent_mask

_PERCEPTUAL = ("auto", "vgg19", "autoencoder")


def _protection_inputs() -> list[Any]:
    """Inputs that both protecting nodes share."""
    return [
        io.Vae.Input(
            "vae",
            tooltip="The VAE that decodes the result. A private copy takes the gradients; yours stays as it is.",
        ),
        EnsembleWire.Input("ensemble", tooltip="From FR Ensemble Loader."),
        IdentityWire.Input("identity", tooltip="From Identity."),
        io.Combo.Input(
            "preset",
            options=["default", "paper", "fast"],
            default="default",
            tooltip="paper: the published method. default: aligned face, only the face changes, survives sharing. fast: gradients through a tiny decoder, checked against the full one.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**31 - 1,
            control_after_generate=True,
            tooltip="Of the small start noise and the random views.",
        ),
        *face_inputs(),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Where the protection may act (white), inside the face. Of the encoded picture.",
        ),
        io.Vae.Input(
            "tiny_vae", optional=True, tooltip="A TAESD-layout VAE (taef1) for the fast preset."
        ),
        io.Combo.Input(
            "perceptual",
            options=list(_PERCEPTUAL),
            default="auto",
            advanced=True,
            tooltip="How differences are seen. auto: VGG19 where its file is installed, else a tiny VAE's own features.",
        ),
        io.Int.Input(
            "attacked_intervals",
            default=0,
            min=0,
            max=100,
            advanced=True,
            tooltip="Refine after each of the last so many intervals; 0 takes the preset's. Published: 5.",
        ),
        io.Int.Input(
            "optimiser_steps",
            default=0,
            min=0,
            max=200,
            advanced=True,
            tooltip="Adam steps an interval; 0 takes the preset's. Published: 10.",
        ),
        io.Float.Input(
            "learning_rate",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.005,
            advanced=True,
            tooltip="Of Adam, in latent units; 0 takes the preset's. Published: 0.02.",
        ),
        io.Float.Input(
            "perceptual_weight",
            default=-1.0,
            min=-1.0,
            max=20.0,
            step=0.1,
            advanced=True,
            tooltip="Weight of the visible difference; -1 takes the preset's. Published: 0.5.",
        ),
        io.Float.Input(
            "max_change",
            default=0.0,
            min=0.0,
            max=10.0,
            step=0.05,
            advanced=True,
            tooltip="Bound on the change of any latent value; 0 leaves it free.",
        ),
        io.Int.Input(
            "random_views",
            default=-1,
            min=-1,
            max=16,
            advanced=True,
            tooltip="Random views (JPEG, resize, blur, jitter) a step; -1 takes the preset's.",
        ),
        io.Float.Input(
            "margin",
            default=-1.0,
            min=-1.0,
            max=1.0,
            step=0.01,
            advanced=True,
            tooltip="How far past the threshold similarity must get; -1 takes the preset's.",
        ),
    ]


@dataclass(frozen=True, eq=False)
class _Wishes:
    """What the widgets and optional sockets said."""

    vae: Any
    ensemble: Ensemble
    identity: Identity
    preset: Preset
    perceptual: str
    face_finder: str
    face_index: int
    face_landmarks: dict[str, Any] | None
    bboxes: Any
    mask: Tensor | None
    tiny_vae: Any


def _wishes(given: dict[str, Any]) -> _Wishes:
    names = ("vae", "ensemble", "identity", "perceptual", "face_finder", "face_index")
    optional = ("face_landmarks", "bboxes", "mask", "tiny_vae")
    return _Wishes(
        preset=_preset(given),
        **{name: given[name] for name in names},
        **{name: given.get(name) for name in optional},
    )


def _preset(given: dict[str, Any]) -> Preset:
    """The chosen preset with the expert inputs that were set."""
    preset = preset_named(given["preset"])
    refiner = replace(preset.refiner, seed=given["seed"])
    if given["optimiser_steps"]:
        refiner = replace(refiner, steps=given["optimiser_steps"])
    if given["learning_rate"]:
        refiner = replace(refiner, learning_rate=given["learning_rate"])
    if given["perceptual_weight"] >= 0:
        refiner = replace(refiner, perceptual_weight=given["perceptual_weight"])
    if given["max_change"]:
        refiner = replace(refiner, max_change=given["max_change"])
    preset = replace(preset, refiner=refiner)
    if given["attacked_intervals"]:
        preset = replace(preset, attacked=given["attacked_intervals"])
    if given["random_views"] >= 0:
        preset = replace(preset, random_views=given["random_views"])
    return replace(preset, margin=given["margin"]) if given["margin"] >= 0 else preset


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
                *_protection_inputs(),
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
        wishes = _wishes(given)
        trajectory = host.placed(trajectory, model.load_device)
        decoder = host.picture_decoder(wishes.vae)

        def from_model(samples: Tensor) -> Tensor:
            return model.model.process_latent_out(samples)

        preset, count = wishes.preset, trajectory.intervals
        total = count + preset.attacked * _iterates(preset)
        progress = host.Progress(total)
        preview = host.latent_preview(model)
        prepared = _prepare(wishes, decoder, trajectory.source, from_model, progress, count)
        steps_with = solver if solver != "trajectory's" else trajectory.solver
        branches = torch.Size((2 * trajectory.source.shape[0], *trajectory.source.shape[1:]))
        result = host.with_field(
            host.with_models(model, prepared.networks),
            host.with_guidance(positive, guidance),
            lambda field: edit_and_protect(
                field,
                trajectory,
                (),
                prepared.refiner,
                attacked_intervals=preset.attacked,
                solver=steps_with,
                window=prepared.window,
                one_batch=one_batch,
                progress=lambda done, _, z: progress(
                    prepared.done(done - count + preset.attacked, done), preview(z)
                ),
            ),
            shape=branches,
            sigmas=trajectory.sigmas,
            solver=steps_with,
        )
        progress(total)
        patches = ", ".join(host.edit_patches(model)) or "none (a plain generation)"
        return io.NodeOutput(
            host.to_latent(model, result.protected),
            host.to_latent(model, result.edited),
            prepared.region,
            f"Edit patches: {patches}\n{_told(result, wishes)}",
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
                *_protection_inputs(),
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
        wishes = _wishes(given)
        samples = latent["samples"]
        if getattr(samples, "is_nested", False) or samples.ndim != 4:
            raise FluxGuardError(
                f"Expected the latent of a picture [batch, channels, height, width], got {list(samples.shape)}. "
                "Encode the picture with VAE Encode."
            )
        samples = samples.to(host.working_device(), torch.float32)
        # Latents of other models are scaled to unit spread, for which the learning rate was chosen.
        unit = float(samples.std())
        if not unit:
            raise FluxGuardError(
                "The latent is empty, so there is nothing to protect. Encode a picture."
            )
        decoder = host.picture_decoder(wishes.vae)
        rounds = wishes.preset.attacked
        progress = host.Progress(rounds * _iterates(wishes.preset))
        prepared = _prepare(wishes, decoder, samples / unit, lambda z: z * unit, progress, 0)
        result = protect_latent(
            samples / unit, prepared.refiner, rounds=rounds, window=prepared.window
        )
        progress(progress.total)
        protected = (result.protected * unit).to(latent["samples"].device)
        return io.NodeOutput({"samples": protected}, prepared.region, _told(result, wishes))


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A refiner ready to run, and what the host has to load for it."""

    refiner: Refiner
    window: Window | None
    region: Tensor
    networks: Sequence[torch.nn.Module]
    first: int
    iterates: int

    def done(self, attacked: int, generated: int) -> int:
        """Progress in all: intervals generated, and iterates of the attacked ones before."""
        return generated + max(0, attacked - 1) * self.iterates


def _iterates(preset: Preset) -> int:
    return preset.refiner.steps + preset.refiner.keep_best


def _prepare(
    wishes: _Wishes,
    decoder: host.PictureDecoder,
    source: Tensor,
    to_samples: Callable[[Tensor], Tensor],
    progress: host.Progress,
    intervals: int,
) -> _Prepared:
    """Load everything, look at the person once, and build the refiner.

    Args:
        source: latent of the person's picture, in the space that is refined.
        to_samples: from that space to what the VAE decodes.
        intervals: of the generation that the refiner accompanies; 0 where there is none.
    """
    preset, grid = wishes.preset, (source.shape[-2], source.shape[-1])
    tiny = None if wishes.tiny_vae is None else host.picture_decoder(wishes.tiny_vae)
    distance, network = _perceptual(wishes.perceptual, decoder, tiny)
    networks = [encoder.network for encoder in wishes.ensemble.attacked]
    networks += [extra for extra in (network, tiny and tiny.module) if extra is not None]
    host.load_together(decoder, networks, to_samples(source).shape)
    first = intervals - preset.attacked if intervals else 0

    def stepped(entry: RefinerStep, picture: Tensor) -> None:
        before = (entry.interval - first) * _iterates(preset)
        progress(
            min(entry.interval + 1, intervals) + before + entry.step, host.picture_preview(picture)
        )

    with host.ordinary_tensors():
        picture = decoder(to_samples(source.clone()))
        landmarks = None
        if preset.aligned or preset.face_only:
            landmarks = find_landmarks(
                picture,
                wishes.face_finder,
                wishes.face_index,
                wishes.face_landmarks,
                wishes.bboxes,
            ).to(picture.device)
        within = None
        if wishes.mask is not None:
            within = latent_mask(wishes.mask.clone(), grid, source.shape[0])
        refiner, window = assemble_refiner(
            preset,
            wishes.ensemble,
            wishes.identity,
            picture,
            landmarks,
            grid,
            decode=lambda z: decoder(to_samples(z)),
            decode_tiny=None if tiny is None else (lambda z: tiny(to_samples(z))),
            perceptual=distance,
            within=within,
            on_step=stepped,
        )
    region = None if refiner.region is None else refiner.region.cpu()
    acted = blending_mask(region, window, grid)[:, 0]
    return _Prepared(refiner, window, acted, [decoder.module, *networks], first, _iterates(preset))


@lru_cache(maxsize=1)
def _vgg19(path: str) -> VGG19Features:
    with host.ordinary_tensors():
        return vgg19_relu3_4(path)


def _perceptual(
    choice: str, decoder: host.PictureDecoder, tiny: host.PictureDecoder | None
) -> tuple[PerceptualDistance, torch.nn.Module | None]:
    """The perceptual distance, and its network where the host has to load one."""
    path = folders.installed("vgg19")
    if choice == "vgg19" or (choice == "auto" and path is not None):
        network = _vgg19(str(path or folders.required("vgg19")))
        return feature_distance(network), network
    for candidate in (decoder, tiny):
        features = None if candidate is None else candidate.features()
        if features is not None:
            return feature_distance(features), None
    raise FluxGuardError(
        "The visible difference needs VGG19 (vgg19-dcbb9e9d.pth in models/fluxguard/perceptual; fluxguard models "
        "download vgg19), or a TAESD-layout VAE such as taef1 connected to tiny_vae."
    )


def _told(result: Protection, wishes: _Wishes) -> str:
    """The log in words: the last iterate of every interval."""
    last = {entry.interval: entry for entry in result.log}
    lines = [f"Preset {wishes.preset.name}, identity {wishes.identity.kind}"]
    for interval, entry in last.items():
        similar = ", ".join(f"{name} {value:.2f}" for name, value in entry.source.items())
        aimed = ", ".join(f"{name} {value:.2f}" for name, value in entry.target.items())
        parts = [f"interval {interval}: {entry.step + 1} iterates, loss {entry.identity_loss:.3f}"]
        parts.append(f"visible difference {entry.perceptual:.4f}")
        parts += [f"similarity to the person: {similar}"] if similar else []
        parts += [f"to the target: {aimed}"] if aimed else []
        parts += ["goal reached"] if entry.met else []
        lines.append("; ".join(parts))
    return "\n".join(lines)
