"""Wire types of the pack and the host's that have no class of their own; inputs that several nodes share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

TrajectoryWire = io.Custom("FLUXGUARD_TRAJECTORY")
EnsembleWire = io.Custom("FR_ENSEMBLE")
IdentityWire = io.Custom("FR_IDENTITY")
CloakWire = io.Custom("FLUXGUARD_CLOAK")
AttributesWire = io.Custom("FLUXGUARD_ATTRIBUTES")
FacesWire = io.Custom("FLUXGUARD_FACES")
ConceptsWire = io.Custom("FLUXGUARD_CONCEPTS")
InversionOptionsWire = io.Custom("FLUXGUARD_INVERSION_OPTIONS")
ProtectionOptionsWire = io.Custom("FLUXGUARD_PROTECTION_OPTIONS")
FaceLandmarksWire = io.Custom("FACE_LANDMARKS")

CATEGORY = "FluxGuard"
MINIATURE = f"{CATEGORY}/miniature"

AS_INVERTED = "as inverted"
"""The choice that follows the recipe on the trajectory."""


def faces_input() -> Any:
    """Where the faces are, the same on every node."""
    return FacesWire.Input(
        "faces",
        optional=True,
        tooltip="From Face Picker, on the same picture. Without it: the largest face, found by YuNet where its file is installed.",
    )


def seed_input(tooltip: str) -> Any:
    """A seed that stays as it is after a run."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=2**31 - 1,
        control_after_generate=io.ControlAfterGenerate.fixed,
        tooltip=tooltip,
    )


def shown(cls: type[io.ComfyNode], image: Tensor, text: str = "") -> dict[str, Any]:
    """An IMAGE, and words where there are any, to be seen on the node itself."""
    seen = ui.PreviewImage(image, cls=cls).as_dict()
    return {**seen, **ui.PreviewText(text).as_dict()} if text else seen


def to_image(picture: Tensor) -> Tensor:
    """Picture [B, 3, H, W] -> IMAGE [B, H, W, 3]."""
    return picture.movedim(1, -1).float().cpu().contiguous()
