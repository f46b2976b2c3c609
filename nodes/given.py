"""Pictures, masks and latents as other packs put them on the host's wires: read alike by every node, or refused in words."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from ..fluxguard_core.backends.geometry import FLUX
from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.regions import checked, soft_mask
from . import host

BLANK = (64, 64)
"""Size of the black mask that Load Image gives for a picture without transparency."""

_ROUNDING = 1e-3  # what resizing in half precision leaves beyond 0 and 1


def to_picture(image: Any, name: str = "image") -> Tensor:
    """IMAGE [B, H, W, C] or [H, W, C] -> picture [B, 3, H, W] in [0, 1]; alpha is dropped, grey becomes RGB.

    Raises FluxGuardError for an empty batch, for what is no number, and for anything that is no picture.
    """
    given = _tensor(image, name, "a picture")
    whole = given[None] if given.ndim == 3 else given
    if whole.ndim != 4 or not 1 <= whole.shape[-1] <= 4:
        raise FluxGuardError(
            f"Expected pictures [batch, height, width, 1 to 4 channels] on ‹give {name}›, got {list(given.shape)}.",
            "Connect an IMAGE, as Load Image and VAE Decode give it.",
        )
    picture = _sound(whole, name, "pictures").movedim(-1, 1).clamp(0, 1)
    return picture[:, :3] if picture.shape[1] >= 3 else picture[:, :1].expand(-1, 3, -1, -1)


def to_masks(mask: Any, name: str = "mask") -> Tensor:
    """MASK [H, W], [B, H, W], [B, 1, H, W] or [B, H, W, 1] -> masks [B, 1, H, W] in [0, 1].

    Raises FluxGuardError for an empty batch, for what is no number, and for values outside [0, 1].
    """
    given = _tensor(mask, name, "a mask")
    whole = given
    while whole.ndim in (2, 3):
        whole = whole[None] if whole.ndim == 2 else whole[:, None]
    if whole.ndim == 4 and whole.shape[1] != 1 == whole.shape[-1]:
        whole = whole.movedim(-1, 1)
    if whole.ndim != 4 or whole.shape[1] != 1:
        raise FluxGuardError(
            f"Expected masks [batch, height, width] on ‹give {name}›, got {list(given.shape)}.",
            "An IMAGE becomes a mask with Convert Image to Mask.",
        )
    sound = _sound(whole, name, "masks")
    if float(sound.min()) < -_ROUNDING or float(sound.max()) > 1 + _ROUNDING:
        raise FluxGuardError(
            f"A mask's values must lie in [0, 1]; on ‹give {name}› they reach from {float(sound.min()):.3g} to "
            f"{float(sound.max()):.3g}.",
            "Rescale it: 1 is white, which may change.",
        )
    return sound.clamp(0, 1)


def optional_masks(mask: Any, name: str = "mask") -> Tensor | None:
    """As ``to_masks``; None where nothing is connected, or only Load Image's blank mask, which is told."""
    if mask is None:
        return None
    masks = to_masks(mask, name)
    if not is_blank(masks):
        return masks
    host.warn(
        f"The {name} is the blank one that Load Image gives for a picture without transparency (64 x 64, black); it "
        "is taken as not connected."
    )
    return None


def is_blank(masks: Tensor) -> bool:
    """Whether masks [B, 1, H, W] are what Load Image gives where there is nothing to mask."""
    return tuple(masks.shape[-2:]) == BLANK and not bool(masks.any())


def samples_of(latent: Any, name: str = "latent") -> Tensor:
    """LATENT -> its samples [B, C, h, w] of pictures.

    Raises FluxGuardError for nested latents and those of videos, for an empty batch, and for what is no number.
    """
    samples = (
        latent.get("samples") if isinstance(latent, dict) else _refused(latent, name, "a latent")
    )
    if getattr(samples, "is_nested", False):
        raise FluxGuardError(
            f"Several latents in one came on ‹give {name}›, as models for video with sound have them.",
            "Encode the picture with VAE Encode.",
        )
    given = _tensor(samples, name, "a latent")
    if given.ndim != 4:
        raise FluxGuardError(
            f"Expected the latent of pictures [batch, channels, height, width] on ‹give {name}›, got "
            f"{list(given.shape)}.",
            "Encode the picture with VAE Encode.",
        )
    _sound(given, name, "latents")
    return given


def checked_masks(masks: Tensor) -> Tensor:
    """Masks [B, 1, H, W], not all of them empty; in a batch some may be, which the user is warned of.

    Raises EmptyMask where all are.
    """
    empty = (masks == 0).flatten(1).all(1)
    if not bool(empty.any()) or bool(empty.all()):
        return checked(masks)
    numbers = ", ".join(str(int(number)) for number in empty.nonzero())
    host.warn(
        f"The mask of picture {numbers} of the batch (the first is 0) is empty: nothing will change there."
    )
    return masks


def latent_mask(mask: Any, grid: tuple[int, int], batch: int, side: int = FLUX.pixels) -> Tensor:
    """MASK of the encoded picture, or of its latent -> [B, 1, h, w] at latent resolution.

    Args:
        side: of a latent cell in pixels.

    Raises FluxGuardError for empty masks, or those of another picture.
    """
    masks = to_masks(mask)
    if is_blank(masks) and grid != BLANK:
        raise FluxGuardError(
            "The mask is the blank one that Load Image gives for a picture without transparency (64 x 64, black).",
            "Paint a mask in the Mask Editor, or make one with Text to Mask.",
        )
    whole = checked_masks(masks)
    if whole.shape[0] not in (1, batch):
        raise FluxGuardError(
            f"{whole.shape[0]} masks came for {batch} pictures. Give one mask, or one for each picture."
        )
    height, width = whole.shape[-2:]
    if (height, width) == grid:
        return whole  # made for the latent already
    # VAE Encode cuts pictures to whole latents from the middle.
    top, left = height % side // 2, width % side // 2
    whole = whole[..., top : top + height // side * side, left : left + width // side * side]
    if (whole.shape[-2] // side, whole.shape[-1] // side) != grid:
        raise FluxGuardError(
            f"The mask is {width} x {height} pixels, but the picture was {side * grid[1]} x {side * grid[0]}. Make the "
            "mask from the picture that was encoded."
        )
    return torch.as_tensor(soft_mask(whole, side, size=grid))


def _tensor(given: Any, name: str, what: str) -> Tensor:
    if isinstance(given, Tensor) and not given.is_nested:
        return given
    return _refused(given, name, what)


def _refused(given: Any, name: str, what: str) -> NoReturn:
    kind = "nothing" if given is None else f"a {type(given).__name__}"
    raise FluxGuardError(
        f"Expected {what} on ‹give {name}›, got {kind}.",
        "Look at the node before it, or connect another one.",
    )


def _sound(given: Tensor, name: str, what: str) -> Tensor:
    """Given numbers as float32, 8 bits brought to [0, 1]."""
    if not given.numel():
        raise FluxGuardError(
            f"No {what} came on ‹give {name}›: an empty batch, {list(given.shape)}.",
            "Let the node before it give at least one.",
        )
    if given.dtype == torch.uint8:
        return given.float() / 255
    if not given.is_floating_point() and given.dtype != torch.bool:
        raise FluxGuardError(
            f"The {what} on ‹give {name}› are whole numbers ({given.dtype}), expected values in [0, 1].",
            "Divide them by their white.",
        )
    sound = given.float()
    if not bool(torch.isfinite(sound).all()):
        raise FluxGuardError(
            f"The {what} on ‹give {name}› hold values that are no numbers (NaN or infinite).",
            "Look at the node that made them; a VAE in half precision gives such on some cards, which --fp32-vae mends.",
        )
    return sound
