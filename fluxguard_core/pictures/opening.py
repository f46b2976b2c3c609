"""Opening picture files of any origin: whole and sound, or PictureError in words.

Notes in a file (text, workflow, EXIF, profile) never decide whether its picture can be read.
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from .errors import PictureError
from .formats import format_of, is_raw, readable_formats, readable_suffixes, why_unreadable

MAX_PIXELS = 100_000_000
MAX_SIDE = 32_768
_MAX_PROFILE = 32 << 20
_PNG = b"\x89PNG\r\n\x1a\n"
_NOTES = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tIME")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, eq=False)
class Opened:
    """A decoded file.

    Args:
        image: as the file lays it out, loaded.
        upright: the same, turned as its EXIF data says.
        layout: how the pixels were stored, in Pillow's words for its tiles.
        several: there are further pictures in the file.
    """

    image: Image.Image
    upright: Image.Image
    layout: str
    several: bool


def open_picture(path: Path, max_pixels: int = MAX_PIXELS) -> Opened:
    """Decode the first picture of a file.

    Raises:
        PictureError: the file is missing, empty, no picture, too large, or damaged.
    """
    _check_file(path)
    try:
        return _loaded(path, path, max_pixels)
    except UnidentifiedImageError as error:
        plain = _without_notes(path)
        if plain is None:
            raise _unknown(path) from error
    except (ValueError, SyntaxError, zlib.error) as error:
        plain = _without_notes(path)
        if plain is None:
            raise _damaged(path, error) from error
    data, notes = plain
    try:
        return _loaded(path, io.BytesIO(data), max_pixels, notes)
    except (UnidentifiedImageError, ValueError, SyntaxError, zlib.error) as error:
        raise _damaged(path, error) from error


def look_at(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int] | None:
    """Height and width of the upright picture from a file's header; None where only decoding it tells.

    Raises:
        PictureError: the file is missing, empty, no picture, or too large.
    """
    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=readable_formats()) as image:
                _check_size(path, image.size, max_pixels)
                turned = _orientation(image) >= 5
                return image.size if turned else (image.height, image.width)
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        if _without_notes(path) is None:
            raise _unknown(path) from error
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large(path, "far too many pixels", max_pixels)) from error
    except Exception:  # a header that leads a decoder astray; told when the picture is read
        return None
    return None


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(_orientation(image))
    if turn is None:
        return image
    wanted = ("icc_profile", "transparency")
    kept: dict[Any, Any] = {key: image.info[key] for key in wanted if key in image.info}
    turned = image.transpose(turn)
    turned.info.update(kept)
    return turned


def _no_file(path: Path) -> str:
    if path.is_dir():
        return "is a folder, not a file"
    if path.is_symlink():
        return "is a link to nothing"
    return "is no file of a disk" if path.exists() else "does not exist"


def _check_file(path: Path) -> None:
    try:
        if not path.is_file():
            raise PictureError(f"The picture {path} {_no_file(path)}.", "Check the name.")
        if path.stat().st_size == 0:
            raise PictureError(f"The picture {path} is empty (0 bytes): copy or download it again.")
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise PictureError(
            f"{path} may not be read ({error.strerror or error}).",
            "Check its permissions and its disk.",
        ) from error
    except ValueError as error:  # a name with a zero byte in it
        raise PictureError(f"The picture name {str(path)!r} is no name of a file.") from error
    found = None if is_raw(path) else format_of(head)
    if found is None and (why := why_unreadable(path)):
        raise PictureError(f"{path} cannot be read.", why)
    if found is not None and found not in readable_formats():
        why = why_unreadable(Path(f"x.{found.lower()}")) or f"{found} is not read here."
        raise PictureError(f"{path} cannot be read.", why)


def _loaded(
    path: Path,
    source: Path | io.BytesIO,
    max_pixels: int,
    notes: Mapping[str, bytes] | None = None,
) -> Opened:
    """Decode the first picture; ValueError and its kin come through, for the notes may be to blame."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(source, formats=readable_formats())
            _check_size(path, image.size, max_pixels)
            layout, several = str(image.tile), bool(getattr(image, "is_animated", False))
            image.load()
            image.info.update(notes or {})
            return Opened(image, _upright(image), layout, several)
    except (UnidentifiedImageError, PictureError, ValueError, SyntaxError, zlib.error):
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large(path, "far too many pixels", max_pixels)) from error
    except MemoryError as error:
        raise PictureError(
            f"There is not enough memory for {path}.", "Scale it down or close other programs."
        ) from error
    except Exception as error:  # decoders raise whatever a damaged header leads them to
        raise _damaged(path, error) from error


def _unknown(path: Path) -> PictureError:
    known = ", ".join(suffix[1:] for suffix in readable_suffixes())
    return PictureError(
        f"{path} is not a picture in a known format.", f"Give a photo in one of: {known}."
    )


def _damaged(path: Path, error: BaseException) -> PictureError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return PictureError(
        f"{path} is damaged and cannot be read ({reason}): copy or download it again."
    )


def _too_large(path: Path, what: str, max_pixels: int) -> str:
    return (
        f"{path} has {what}; at most {max_pixels:,} pixels and {MAX_SIDE:,} on a side are read. "
        "Scale it down or crop it first."
    )


def _check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels or max(size) > MAX_SIDE:
        raise PictureError(_too_large(path, f"{width}x{height} pixels", max_pixels))


def _without_notes(path: Path) -> tuple[bytes, dict[str, bytes]] | None:
    """A PNG without its notes, and the notes that matter: profile and EXIF. None for another format."""
    data = path.read_bytes()
    if not data.startswith(_PNG):
        return None
    kept, notes, at = [_PNG], {}, len(_PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        body = data[at + 8 : end - 4]
        if kind == b"iCCP" and (profile := _profile(body)):
            notes["icc_profile"] = profile
        elif kind == b"eXIf":
            notes["exif"] = b"Exif\0\0" + body
        if kind not in _NOTES:
            kept.append(data[at:end])
        at = end
    return b"".join(kept), notes


def _profile(chunk: bytes) -> bytes | None:
    """The colour profile of a PNG, as long as it is no bomb."""
    _, _, packed = chunk.partition(b"\0")
    try:
        unpack = zlib.decompressobj()
        profile = unpack.decompress(packed[1:], _MAX_PROFILE)
    except zlib.error:
        return None
    return profile if unpack.eof else None


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none that can be read."""
    value: Any = None
    with contextlib.suppress(Exception):  # whatever a malformed note leads Pillow's parser to
        value = image.getexif().get(_ORIENTATION)
    if isinstance(value, tuple) and value:
        value = value[0]
    return value if isinstance(value, int) and value in _TURNS else 1
