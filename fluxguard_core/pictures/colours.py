"""From Pillow's modes to values in sRGB: what a file keeps, and what is converted, in words."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops, ImageCms
from torch import Tensor

from .errors import PictureError

GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N", "I")
_BITS, _SAMPLES, _PHOTOMETRIC = 258, 339, 262  # TIFF tags
_SIGNED, _WHITE_IS_ZERO = 2, 0


def deep_grey(
    image: Image.Image, origin: Image.Image, name: str
) -> tuple[Tensor, Tensor | None, list[str]]:
    """Grey of 12, 16 or 32 bits as values [1,1,H,W] in [0,1], its alpha, and what was converted.

    Args:
        image: upright, of a mode that starts with "I".
        origin: the image as the file lays it out, with its TIFF tags.

    Raises:
        PictureError: values below zero, for which there is no black.
    """
    values = np.asarray(image)
    if image.mode == "I" and _tag(origin, _SAMPLES) == 1 and _tag(origin, _BITS) == 32:
        values = values.view(np.uint32)  # Pillow has no unsigned mode of 32 bits
    white, notes = _white_of(origin, values)
    if values.size and int(values.min()) < 0:
        raise PictureError(
            f"{name} holds numbers below zero, for which a picture has no colour.",
            "Save it with 8 or 16 bits.",
        )
    grey = values.astype(np.float64) / white
    if float(grey.max(initial=0)) > 1:
        raise PictureError(
            f"{name} holds numbers above its white ({white:,}).", "Save it with 8 or 16 bits."
        )
    alpha = None
    if isinstance(key := image.info.get("transparency"), int):
        alpha = torch.from_numpy((values != key).astype(np.float32))[None, None]
    if _tag(origin, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 1 - grey
    if profile := image.info.get("icc_profile"):
        grey, told = _through_profile(grey, profile)
        notes += told
    notes.append("Its grey is kept in full depth for the work and written with 8 bits.")
    return torch.from_numpy(grey.astype(np.float32))[None, None], alpha, notes


def _white_of(image: Image.Image, values: np.ndarray[Any, Any]) -> tuple[int, list[str]]:
    """The number that means white. Of 32 bits no file says it: the numbers used decide."""
    if image.mode != "I":
        bits = _tag(image, _BITS)
        return (4095 if bits == 12 else 65535), []
    if _tag(image, _BITS) == 16:
        return 32767, []
    if image.format != "TIFF":
        return 65535, []  # PNG and PGM of 16 bits in older Pillow
    largest = int(values.max(initial=0))
    full = int(np.iinfo(values.dtype).max)
    white = min(limit for limit in (255, 65535, full) if largest <= limit)
    return white, [
        f"Its numbers have 32 bits and go up to {largest:,}: {white:,} was read as white."
    ]


def _tag(image: Image.Image, number: int) -> int | None:
    tags = getattr(image, "tag_v2", None)
    value = None if tags is None else tags.get(number)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else None


def _through_profile(
    grey: np.ndarray[Any, Any], profile: bytes
) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Grey through its profile, in full depth: the curve of 256 steps, interpolated."""
    steps = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    curve, notes = with_profile(steps, profile)
    if curve is None:
        return grey, notes
    levels = np.asarray(curve.convert("L"))[0].astype(np.float64) / 255
    return np.interp(grey, np.linspace(0, 1, 256), levels), notes


def with_profile(image: Image.Image, profile: bytes) -> tuple[Image.Image | None, list[str]]:
    """The image in sRGB, or None where its profile cannot be used; and a note in both cases."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        title = ImageCms.getProfileDescription(source)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None, ["Its colour profile cannot be read and was left out, as browsers do."]
    title = "".join(letter for letter in title if letter.isprintable()).strip()[:60] or "unnamed"
    if converted is None or (image.mode != "CMYK" and _alike(converted, image.convert("RGB"))):
        return converted, []
    return converted, [f"Its colours were converted from the profile {title} to sRGB."]


def _alike(first: Image.Image, second: Image.Image) -> bool:
    """Whether no channel differs by more than rounding."""
    return int(np.asarray(ImageChops.difference(first, second)).max(initial=0)) <= 2


def srgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """RGB or RGBA of 8 bits in sRGB, and what was converted."""
    notes: list[str] = []
    profile = image.info.get("icc_profile")
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    colours = image.convert("L") if image.mode == "LA" else image
    if colours.mode == "LAB":
        colours, profile = _from_lab(colours), None
        notes.append("Its colours were converted from L*a*b* to sRGB.")
    colours = colours if colours.mode in ("L", "CMYK") else colours.convert("RGB")
    if profile:
        converted, notes = with_profile(colours, profile)
        colours = converted or colours
    elif colours.mode == "CMYK":
        notes.append("It is CMYK without a profile: its colours are an approximation.")
    colours = colours.convert("RGB")
    if alpha is not None:
        colours.putalpha(alpha)
    return colours, notes


def _from_lab(image: Image.Image) -> Image.Image:
    lab, standard = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, standard, outputMode="RGB")
    return image.convert("RGB") if converted is None else converted


def reduced(layout: str) -> list[str]:
    """A note where the file's colours have more than the 8 bits that were read; ``layout``: Pillow's tiles."""
    deep = any(mark in layout for mark in (";16", ";12", "16B", "16L", "16N"))
    return ["Its colours have 16 bits a channel; 8 were read."] if deep else []
