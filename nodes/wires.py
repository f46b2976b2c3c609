"""Wire types of the pack and the host's that have no class of their own; pictures and masks on wires."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..fluxguard_core.backends.geometry import FLUX
from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.regions import checked, soft_mask
from . import host

TrajectoryWire = io.Custom("FLUXGUARD_TRAJECTORY")
EnsembleWire = io.Custom("FR_ENSEMBLE")
IdentityWire = io.Custom("FR_IDENTITY")
FacesWire = io.Custom("FLUXGUARD_FACES")
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


def to_picture(image: Tensor) -> Tensor:
    """IMAGE [B, H, W, C] -> picture [B, 3, H, W]; an alpha channel is dropped, grey becomes RGB."""
    picture = image.movedim(-1, 1).float()
    return picture[:, :3] if picture.shape[1] >= 3 else picture[:, :1].expand(-1, 3, -1, -1)


def to_image(picture: Tensor) -> Tensor:
    """Picture [B, 3, H, W] -> IMAGE [B, H, W, 3]."""
    return picture.movedim(1, -1).float().cpu().contiguous()


def checked_masks(masks: Tensor) -> Tensor:
    """Masks [B, 1, H, W], checked; in a batch some may be empty, which the user is warned of.

    Raises FluxGuardError for values outside [0, 1], and where all masks are empty.
    """
    if masks.ndim != 4:
        return checked(masks)
    empty = (masks == 0).flatten(1).all(1)
    if not bool(empty.any()) or bool(empty.all()):
        return checked(masks)
    checked(masks[~empty])
    numbers = ", ".join(str(int(number)) for number in empty.nonzero())
    host.warn(
        f"The mask of picture {numbers} of the batch (the first is 0) is empty: nothing will change there."
    )
    return masks if masks.is_floating_point() else masks.float()


def latent_mask(mask: Tensor, grid: tuple[int, int], batch: int) -> Tensor:
    """MASK [B, H, W] of the encoded picture, or of its latent -> [B, 1, h, w] at latent resolution.

    Raises FluxGuardError for empty masks, or those of another picture.
    """
    whole = checked_masks(mask[:, None] if mask.ndim == 3 else mask)
    if whole.shape[0] not in (1, batch):
        raise FluxGuardError(
            f"{whole.shape[0]} masks came for {batch} pictures. Give one mask, or one for each picture."
        )
    height, width = whole.shape[-2:]
    if (height, width) == grid:
        return whole  # made for the latent already
    side = FLUX.pixels
    # VAE Encode cuts pictures to whole latents from the middle.
    top, left = height % side // 2, width % side // 2
    whole = whole[..., top : top + height // side * side, left : left + width // side * side]
    if (whole.shape[-2] // side, whole.shape[-1] // side) != grid:
        raise FluxGuardError(
            f"The mask is {width} x {height} pixels, but the picture was {side * grid[1]} x {side * grid[0]}. Make the "
            "mask from the picture that was encoded."
        )
    return torch.as_tensor(soft_mask(whole, side, size=grid))
