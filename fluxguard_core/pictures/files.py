"""Pictures and masks on disk: read upright and in sRGB, written whole or not at all.

What a photo carries besides its pixels (EXIF, GPS, thumbnails, colour profile, names) ends here:
a reader keeps none of it and the writer adds none.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .colours import GREY_MODES, deep_grey, reduced, srgb
from .errors import PictureError
from .opening import MAX_PIXELS, open_picture

# ITU-R BT.601, the weights of Pillow's own "L": a grey picture survives a round trip exactly.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, eq=False)
class Picture:
    """rgb [1,3,H,W] in [0,1], sRGB, upright; alpha [1,1,H,W] or None; grey: the file was greyscale.

    notes: a sentence for each thing that was converted or left out when the file was read.
    """

    rgb: Tensor
    alpha: Tensor | None = None
    grey: bool = False
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.rgb.shape[-2]), int(self.rgb.shape[-1])


def read_picture(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a picture file upright (EXIF orientation applied) and in sRGB (colour profile applied).

    Alpha is kept apart, greyscale is remembered, deep grey keeps its depth, of several pictures in a
    file the first is taken; whatever was converted stands in the notes.

    Raises:
        PictureError: the file is missing, empty, no picture, damaged, or has more than ``max_pixels``
            pixels.
    """
    file = Path(path)
    opened = open_picture(file, max_pixels)
    several = ["It holds several pictures; the first was taken."] if opened.several else []
    image = opened.upright
    if image.mode == "F":
        raise PictureError(f"{file} holds floating-point pixels.", "Save it with 8 or 16 bits.")
    if image.mode.startswith("I"):
        values, alpha, told = deep_grey(image, opened.image, str(file))
        return Picture(values.expand(-1, 3, -1, -1).contiguous(), alpha, True, (*several, *told))
    grey = image.mode in GREY_MODES
    if image.mode in ("P", "PA", "La", "RGBa") or "transparency" in image.info:
        profile = image.info.get("icc_profile")
        image = image.convert("LA" if grey else "RGBA")
        image.info["icc_profile"] = profile
    converted, told = srgb(image)
    values = _tensor(converted)
    alpha = values[:, 3:] if values.shape[1] == 4 else None
    opaque = alpha is None or bool((alpha == 1).all())
    notes = (*several, *reduced(opened.layout), *told)
    return Picture(values[:, :3].contiguous(), None if opaque else alpha, grey, notes)


def _tensor(image: Image.Image) -> Tensor:
    values = np.asarray(image).astype(np.float32) / 255.0
    if values.ndim == 2:
        values = values[..., None]
    return torch.from_numpy(values).permute(2, 0, 1)[None].contiguous()


def luma(rgb: Tensor) -> Tensor:
    """BT.601 luma [B,1,H,W] of [B,3,H,W]."""
    weights = rgb.new_tensor(_LUMA).view(1, 3, 1, 1)
    return (rgb * weights).sum(1, keepdim=True)


def _bytes(values: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    scaled = values.detach().to("cpu", torch.float32).clamp(0, 1) * 255
    return scaled.round().to(torch.uint8).permute(1, 2, 0).numpy()


def to_pillow(picture: Picture | Tensor) -> Image.Image:
    """8-bit Pillow image (L, LA, RGB or RGBA) of a picture, or of a tensor [1,1|3,H,W] or [1|3,H,W].

    Raises PictureError for another shape, a batch, or values that are not finite.
    """
    value = picture if isinstance(picture, Picture) else Picture(_single(picture))
    colours = _single(value.rgb)
    if not bool(torch.isfinite(colours).all()):
        raise PictureError("The picture holds NaN or infinite values, so it is not written.")
    if value.grey and colours.shape[1] == 3:
        colours = luma(colours)
    layers = [colours[0]]
    if value.alpha is not None:
        if value.alpha.shape[-2:] != colours.shape[-2:]:
            raise PictureError(
                f"The alpha channel is {tuple(value.alpha.shape[-2:])} and the picture "
                f"{tuple(colours.shape[-2:])} (height, width).",
                "Give both in one size.",
            )
        layers.append(_single(value.alpha)[0].to(colours))
    pixels = _bytes(torch.cat(layers))
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _single(values: Tensor) -> Tensor:
    image = values[None] if values.ndim == 3 else values
    if image.ndim != 4 or image.shape[0] != 1 or image.shape[1] not in (1, 3):
        raise PictureError(
            f"Expected one picture [1,3,H,W] or [3,H,W]; got {tuple(values.shape)}.",
            "Write the pictures of a batch one by one.",
        )
    return image


_MARK = "FluxGuard"


def png_bytes(picture: Picture | Tensor, mark: str = "") -> bytes:
    """The PNG file of a picture, without any metadata but a word that says what it is, where one is given."""
    stream = io.BytesIO()
    notes = PngInfo()
    if mark:
        notes.add_text(_MARK, mark)
    to_pillow(picture).save(stream, format="PNG", pnginfo=notes)
    return stream.getvalue()


def mark_of(path: str | os.PathLike[str]) -> str:
    """The word that ``write_png`` left in a file; none where it is no such file."""
    try:
        with Image.open(path) as opened:
            return str(opened.info.get(_MARK, ""))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""


def write_png(path: str | os.PathLike[str], picture: Picture | Tensor, *, mark: str = "") -> Path:
    """Write an 8-bit PNG: alpha restored, grey as grey (luma), no metadata but ``mark``; whole or not at all.

    Returns the path. Raises PictureError for a name that does not end in .png (the protection lives
    in fine differences, which JPEG would thin out), and for a folder that cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise PictureError(f"{target} does not end in .png: results are written as PNG only.")
    write_atomic(target, png_bytes(picture, mark))
    return target


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file under a temporary name in its folder, then rename it: never half a file."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise PictureError(
            f"{target} cannot be written ({error.strerror or error}).",
            "Choose another name or folder.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_mask(path: str | os.PathLike[str], size: tuple[int, int]) -> Tensor:
    """Read a mask (white = may change) for a picture of `size` (height, width): [1,1,H,W] in [0,1].

    Transparent parts count as black. Raises PictureError when the sizes differ or no pixel is white.
    """
    picture = read_picture(path)
    check_mask_size(path, picture.size, size)
    mask = luma(picture.rgb)
    if picture.alpha is not None:
        mask = mask * picture.alpha
    mask = mask.clamp(0, 1)
    if not bool((mask > 0).any()):
        raise PictureError(
            f"The mask {path} is empty (all black), so nothing would be edited.",
            "Paint the part that may change white.",
        )
    return mask


def check_mask_size(
    path: str | os.PathLike[str], mask: tuple[int, int], size: tuple[int, int]
) -> None:
    """PictureError where a mask's (height, width) are not the picture's."""
    if tuple(mask) != tuple(size):
        (height, width), (rows, columns) = mask, size
        raise PictureError(
            f"The mask {path} is {width}x{height} pixels, the picture {columns}x{rows}.",
            "Save the mask in the picture's size.",
        )
