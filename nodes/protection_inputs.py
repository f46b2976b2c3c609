"""Widgets and sockets that both protecting nodes share, and what they said."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.protect.presets import Preset, preset_named
from ..fluxguard_core.recognition import Ensemble, Identity
from .faces import face_inputs
from .wires import EnsembleWire, IdentityWire

_PERCEPTUAL = ("auto", "vgg19", "autoencoder")


def protection_inputs() -> list[Any]:
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
class Wishes:
    """What the widgets and optional sockets said."""

    vae: Any
    ensemble: Ensemble
    identity: Identity
    preset: Preset
    perceptual: str
    face_finder: str
    face_index: int
    which_face: str
    face_landmarks: dict[str, Any] | None
    bboxes: Any
    mask: Tensor | None
    tiny_vae: Any


def wishes_of(given: dict[str, Any]) -> Wishes:
    names = ("vae", "ensemble", "identity", "perceptual", "face_finder", "face_index")
    optional = ("face_landmarks", "bboxes", "mask", "tiny_vae")
    return Wishes(
        preset=_preset(given),
        which_face=given.get("which_face", "index"),
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
