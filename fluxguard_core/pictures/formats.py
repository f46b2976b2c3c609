"""Which files are photos: the one list of formats, for single files and for folders alike.

A format counts where Pillow of this environment reads it. What runs a program to be drawn (EPS), only stands
for a reader (GRIB) or holds measurements (FITS) is no photo and is never opened.
"""

from __future__ import annotations

import contextlib
from functools import cache
from importlib import import_module
from pathlib import Path

from PIL import Image

# Names of Pillow; MPO is what many phones and cameras write as .jpg.
_PHOTOS = (
    *("PNG", "JPEG", "MPO", "WEBP", "AVIF", "HEIF", "TIFF", "BMP", "DIB", "GIF", "JPEG2000"),
    *("PPM", "TGA", "QOI", "SGI", "SUN", "PCX", "PSD", "ICO", "DDS"),
)
_MORE_SUFFIXES = {"JPEG": (".jpg", ".jif", ".jfi", ".pjp", ".pjpeg", ".mpo"), "TIFF": (".btf",)}
_HEIF = (".heic", ".heif", ".hif", ".heics", ".heifs")
_RAW = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef"),
    *(".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
_VIDEOS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".3gp", ".mts")
_DRAWINGS = (".svg", ".pdf", ".eps", ".ai", ".xcf", ".psb", ".kra", ".emf", ".wmf", ".clip")
_UNREADABLE = {
    **dict.fromkeys(_HEIF, "HEIC needs one more package: ‹install pillow-heif›."),
    ".avif": "AVIF needs Pillow 11.3 or later: ‹install 'pillow>=11.3'›.",
    **dict.fromkeys(
        _RAW, "A camera's raw file is developed first: export it as JPEG, PNG or TIFF."
    ),
    ".jxl": "JPEG XL is not read: export it as PNG or JPEG.",
    **dict.fromkeys(_DRAWINGS, "A drawing or document is not read: export it as PNG."),
    **dict.fromkeys(_VIDEOS, "A video is not protected: every picture of it would have to be."),
}
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"8BPS", "PSD"),
    (b"qoif", "QOI"),
    (b"\0\0\0\x0cjP  ", "JPEG2000"),
)
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"mif1"), "HEIF"),
}


@cache
def readable_formats() -> tuple[str, ...]:
    """Photo formats that can be read here, by Pillow's names; HEIF where pillow-heif is installed."""
    with contextlib.suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(name for name in _PHOTOS if name in Image.OPEN)


@cache
def readable_suffixes() -> tuple[str, ...]:
    """Suffixes of those formats, small letters, sorted."""
    formats = readable_formats()
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in formats}
    known |= {suffix for name in formats for suffix in _MORE_SUFFIXES.get(name, ())}
    return tuple(sorted(known))


def why_unreadable(path: Path) -> str | None:
    """What keeps a picture, raw file, drawing or video of this suffix from being read, or None."""
    suffix = path.suffix.lower()
    return None if suffix in readable_suffixes() else _UNREADABLE.get(suffix)


def is_raw(path: Path) -> bool:
    """Whether the suffix is a camera's raw format: Pillow would open only the thumbnail in it."""
    return path.suffix.lower() in _RAW


def format_of(head: bytes) -> str | None:
    """The photo format that a file's first 12 bytes show, by Pillow's name, or None."""
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return _BRANDS.get(head[8:12]) if head[4:8] == b"ftyp" else None
