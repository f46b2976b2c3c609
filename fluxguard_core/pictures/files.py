"""Pictures and masks on disk: read upright and in sRGB, written whole or not at all.

What a photo carries besides its pixels (EXIF, GPS, thumbnails, colour profile, names) ends here:
a reader keeps none of it and the writer adds none.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import FluxGuardError

MAX_PIXELS = 100_000_000
MAX_SIDE = 32_768
_GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I")
# ITU-R BT.601, the weights of Pillow's own "L": a grey picture survives a round trip exactly.
_LUMA = (0.299, 0.587, 0.114)


class PictureError(FluxGuardError):
    """A picture file cannot be read or written; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class Picture:
    """rgb [1,3,H,W] in [0,1], sRGB, upright; alpha [1,1,H,W] or None; grey: the file was greyscale."""

    rgb: Tensor
    alpha: Tensor | None = None
    grey: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.rgb.shape[-2]), int(self.rgb.shape[-1])


def _open(path: Path, max_pixels: int) -> Image.Image:
    """A loaded Pillow image, or PictureError for each way in which a file can be no picture."""
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise PictureError(f"The picture {path} {what}: check the name.")
    if path.stat().st_size == 0:
        raise PictureError(f"The picture {path} is empty (0 bytes): copy or download it again.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
            _check_size(path, image.size, max_pixels)
            image.load()
    except UnidentifiedImageError as error:
        raise PictureError(
            f"{path} is not a picture in a known format: give a PNG, JPEG, WebP, TIFF or BMP file."
        ) from error
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large(path, "far too many pixels", max_pixels)) from error
    except PermissionError as error:
        raise PictureError(f"{path} may not be read: change its permissions.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise PictureError(
            f"{path} is damaged and cannot be read ({error}): copy or download it again."
        ) from error
    return image


def _too_large(path: Path, what: str, max_pixels: int) -> str:
    return (
        f"{path} has {what}; at most {max_pixels:,} pixels and {MAX_SIDE:,} on a side are read. "
        "Scale it down or crop it first."
    )


def _check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels or max(size) > MAX_SIDE:
        raise PictureError(_too_large(path, f"{width}x{height} pixels", max_pixels))


def _to_srgb(image: Image.Image) -> Image.Image:
    """RGB(A) in sRGB. A profile that cannot be read is left out, as browsers do."""
    profile = image.info.get("icc_profile")
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    colours = image.convert("L") if image.mode == "LA" else image
    colours = colours if colours.mode in ("L", "CMYK") else colours.convert("RGB")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(
                colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            colours = converted or colours
        except (ImageCms.PyCMSError, OSError):
            pass
    colours = colours.convert("RGB")
    if alpha is not None:
        colours.putalpha(alpha)
    return colours


def _sixteen_bit(image: Image.Image) -> Tensor:
    values = np.asarray(image).astype(np.float32) / 65535.0
    return torch.from_numpy(values.clip(0, 1))[None, None]


def _tensor(image: Image.Image) -> Tensor:
    values = np.asarray(image).astype(np.float32) / 255.0
    if values.ndim == 2:
        values = values[..., None]
    return torch.from_numpy(values).permute(2, 0, 1)[None].contiguous()


def _upright(image: Image.Image, path: Path) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError) as error:
        raise PictureError(
            f"The EXIF data of {path} is damaged ({error}): save the picture again without it."
        ) from error


def read_picture(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a picture file upright (EXIF orientation applied) and in sRGB (ICC profile applied).

    Alpha is kept apart, greyscale is remembered, 16-bit grey keeps its depth, of an animation the
    first frame is taken. Raises PictureError for a file that is missing, empty, no picture,
    damaged, or has more than `max_pixels` pixels.
    """
    file = Path(path)
    image = _upright(_open(file, max_pixels), file)
    if image.mode.startswith("I"):
        return Picture(_sixteen_bit(image).expand(-1, 3, -1, -1).contiguous(), None, True)
    if image.mode == "F":
        raise PictureError(f"{file} holds floating-point pixels: save it with 8 or 16 bits.")
    grey = image.mode in _GREY_MODES
    if image.mode in ("P", "PA", "La", "RGBa") or "transparency" in image.info:
        profile = image.info.get("icc_profile")
        image = image.convert("LA" if grey else "RGBA")
        image.info["icc_profile"] = profile
    values = _tensor(_to_srgb(image))
    alpha = values[:, 3:] if values.shape[1] == 4 else None
    opaque = alpha is None or bool((alpha == 1).all())
    return Picture(values[:, :3].contiguous(), None if opaque else alpha, grey)


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
                f"{tuple(colours.shape[-2:])} (height, width): give both in one size."
            )
        layers.append(_single(value.alpha)[0].to(colours))
    pixels = _bytes(torch.cat(layers))
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _single(values: Tensor) -> Tensor:
    image = values[None] if values.ndim == 3 else values
    if image.ndim != 4 or image.shape[0] != 1 or image.shape[1] not in (1, 3):
        raise PictureError(
            f"Expected one picture [1,3,H,W] or [3,H,W]; got {tuple(values.shape)}. Write the "
            "pictures of a batch one by one."
        )
    return image


def png_bytes(picture: Picture | Tensor) -> bytes:
    """The PNG file of a picture, without any metadata."""
    stream = io.BytesIO()
    to_pillow(picture).save(stream, format="PNG")
    return stream.getvalue()


def write_png(path: str | os.PathLike[str], picture: Picture | Tensor) -> Path:
    """Write an 8-bit PNG: alpha restored, grey as grey (luma), no metadata; whole or not at all.

    Returns the path. Raises PictureError for a name that does not end in .png (the protection lives
    in fine differences, which JPEG would thin out), and for a folder that cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise PictureError(f"{target} does not end in .png: results are written as PNG only.")
    write_atomic(target, png_bytes(picture))
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
            f"{target} cannot be written ({error.strerror or error}): choose another name or folder."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_mask(path: str | os.PathLike[str], size: tuple[int, int]) -> Tensor:
    """Read a mask (white = may change) for a picture of `size` (height, width): [1,1,H,W] in [0,1].

    Transparent parts count as black. Raises PictureError when the sizes differ or no pixel is white.
    """
    picture = read_picture(path)
    if picture.size != tuple(size):
        (height, width), (rows, columns) = picture.size, size
        raise PictureError(
            f"The mask {path} is {width}x{height} pixels, the picture {columns}x{rows}: "
            "save the mask in the picture's size."
        )
    mask = luma(picture.rgb)
    if picture.alpha is not None:
        mask = mask * picture.alpha
    mask = mask.clamp(0, 1)
    if not bool((mask > 0).any()):
        raise PictureError(
            f"The mask {path} is empty (all black), so nothing would be edited: paint the part "
            "that may change white."
        )
    return mask
