"""Words -> face regions -> masks."""

from __future__ import annotations

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
from .words import REGION_WORDS, UnknownWords, known_words, regions_in, regions_of_edit

__all__ = [
    "REGION_WORDS",
    "RULES",
    "EmptyMask",
    "FaceParser",
    "NoFace",
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
    "region_mask",
    "regions_in",
    "regions_mask",
    "regions_of_edit",
    "soft_mask",
    "text_mask",
    "union",
]
