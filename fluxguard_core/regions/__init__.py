"""Words -> face regions -> masks. What is imported from here is loaded when it is asked for: words need no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .geometry import NoFace, face_frame, five_points, labels_from_landmarks
    from .mask import (
        FaceParser,
        checked,
        coverage,
        feather,
        grow,
        intersection,
        invert,
        mask_from_labels,
        soft_mask,
        text_mask,
        union,
    )
    from .shapes import RULES, EmptyMask, region_mask, regions_mask
    from .words import (
        Understanding,
        UnknownWords,
        known_words,
        nearest,
        region_names,
        regions_in,
        regions_of_edit,
        understand,
    )

_PLACES = {
    "geometry": ("NoFace", "face_frame", "five_points", "labels_from_landmarks"),
    "mask": (
        "FaceParser",
        "checked",
        "coverage",
        "feather",
        "grow",
        "intersection",
        "invert",
        "mask_from_labels",
        "soft_mask",
        "text_mask",
        "union",
    ),
    "shapes": ("RULES", "EmptyMask", "region_mask", "regions_mask"),
    "words": (
        "Understanding",
        "UnknownWords",
        "known_words",
        "nearest",
        "region_names",
        "regions_in",
        "regions_of_edit",
        "understand",
    ),
}
_HOME = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "RULES",
    "EmptyMask",
    "FaceParser",
    "NoFace",
    "Understanding",
    "UnknownWords",
    "checked",
    "coverage",
    "face_frame",
    "feather",
    "five_points",
    "grow",
    "intersection",
    "invert",
    "known_words",
    "labels_from_landmarks",
    "mask_from_labels",
    "nearest",
    "region_mask",
    "region_names",
    "regions_in",
    "regions_mask",
    "regions_of_edit",
    "soft_mask",
    "text_mask",
    "understand",
    "union",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
