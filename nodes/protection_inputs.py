"""Sockets and widgets that both protecting nodes share, and what they said."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.protect.presets import Preset, preset_named
from ..fluxguard_core.recognition import Ensemble, Identity, untargeted
from .faces import Faces
from .given import optional_masks
from .options import ProtectionOptions
from .wires import (
    EnsembleWire,
    IdentityWire,
    ProtectionOptionsWire,
    faces_input,
    seed_input,
)

PRESET_HELP = (
    "paper: the published method. default: aligned face, only the face changes, survives sharing. fast: gradients "
    "through a tiny decoder, which Protection Options asks for."
)


def protection_inputs(presets: list[str]) -> list[Any]:
    """Inputs that both protecting nodes share."""
    return [
        io.Vae.Input(
            "vae",
            tooltip="The VAE that decodes the result. A private copy takes the gradients; yours stays as it is.",
        ),
        EnsembleWire.Input("ensemble", tooltip="From FR Ensemble Loader."),
        IdentityWire.Input(
            "identity",
            optional=True,
            tooltip="From Identity. Without it: untargeted, taken for nobody in particular.",
        ),
        faces_input(),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Where the protection may act (white), inside the face. Of the encoded picture.",
        ),
        ProtectionOptionsWire.Input(
            "options",
            optional=True,
            tooltip="From Protection Options, to see and change the preset's numbers; its preset takes the place of the one here.",
        ),
        io.Combo.Input("preset", options=presets, default=presets[0], tooltip=_help(presets)),
        seed_input("Of the small start noise and the random views."),
    ]


def _help(presets: list[str]) -> str:
    return (
        PRESET_HELP
        if "default" in presets[0]
        else f"{presets[0]}: as RF Inversion's. {PRESET_HELP}"
    )


@dataclass(frozen=True, eq=False)
class Wishes:
    """What the widgets and sockets said."""

    vae: Any
    ensemble: Ensemble
    identity: Identity
    preset: Preset
    options: ProtectionOptions
    faces: Faces | None
    mask: Tensor | None


def wishes_of(given: dict[str, Any], preset: str) -> Wishes:
    """Everything a protection is told; ``preset`` counts where no options are connected."""
    options = given.get("options") or ProtectionOptions(preset_named(preset))
    chosen = options.preset
    return Wishes(
        vae=given["vae"],
        ensemble=given["ensemble"],
        identity=given.get("identity") or untargeted(),
        preset=replace(chosen, refiner=replace(chosen.refiner, seed=given["seed"])),
        options=options,
        faces=given.get("faces"),
        mask=optional_masks(given.get("mask")),
    )
