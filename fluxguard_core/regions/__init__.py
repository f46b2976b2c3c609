"""Words -> face regions -> masks. What is imported from here is loaded when it is asked for: words need no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .concepts import PHRASES, Attention, ConceptParser, concept_source
    from .found import Found, FullMask, combined, completed, joined, latent_mask, shaped
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
        union,
    )
    from .meaning import Meaning, TextEncoder, read_meaning, understand_with
    from .parsers import (
        LABELS,
        NetworkParser,
        bisenet_parser,
        segformer_parser,
    )
    from .segmentation import (
        Segmenter,
        clipseg,
    )
    from .shapes import RULES, EmptyMask, region_mask, regions_mask
    from .sources import (
        MaskSource,
        auto_source,
        landmark_source,
        outlines_first,
        parser_source,
        read_words,
        words_source,
    )
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
    "concepts": ("PHRASES", "Attention", "ConceptParser", "concept_source"),
    "geometry": ("NoFace", "face_frame", "five_points", "labels_from_landmarks"),
    "meaning": ("Meaning", "TextEncoder", "read_meaning", "understand_with"),
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
        "union",
    ),
    "parsers": ("LABELS", "NetworkParser", "bisenet_parser", "segformer_parser"),
    "segmentation": ("Segmenter", "clipseg"),
    "found": ("Found", "FullMask", "combined", "completed", "joined", "latent_mask", "shaped"),
    "sources": (
        "MaskSource",
        "auto_source",
        "landmark_source",
        "outlines_first",
        "parser_source",
        "read_words",
        "words_source",
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
    "LABELS",
    "PHRASES",
    "RULES",
    "Attention",
    "ConceptParser",
    "EmptyMask",
    "FaceParser",
    "Found",
    "FullMask",
    "MaskSource",
    "Meaning",
    "NetworkParser",
    "NoFace",
    "Segmenter",
    "TextEncoder",
    "Understanding",
    "UnknownWords",
    "auto_source",
    "bisenet_parser",
    "checked",
    "clipseg",
    "combined",
    "completed",
    "concept_source",
    "coverage",
    "face_frame",
    "feather",
    "five_points",
    "grow",
    "intersection",
    "invert",
    "joined",
    "known_words",
    "labels_from_landmarks",
    "landmark_source",
    "latent_mask",
    "mask_from_labels",
    "nearest",
    "outlines_first",
    "parser_source",
    "read_meaning",
    "read_words",
    "region_mask",
    "region_names",
    "regions_in",
    "regions_mask",
    "regions_of_edit",
    "segformer_parser",
    "shaped",
    "soft_mask",
    "understand",
    "understand_with",
    "union",
    "words_source",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
