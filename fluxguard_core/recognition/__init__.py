"""Face recognition: encoders, alignment, ensembles, identities and thresholds."""

from __future__ import annotations

from ..faces.alignment import align, similarity_transform, whole_frame
from ..faces.face import Face, FaceFinder, choose
from .encoder import FaceEncoder, Threshold
from .ensemble import Ensemble
from .identity import Identity, photo, reference_embedding, synthetic, untargeted

__all__ = [
    "Ensemble",
    "Face",
    "FaceEncoder",
    "FaceFinder",
    "Identity",
    "Threshold",
    "align",
    "choose",
    "photo",
    "reference_embedding",
    "similarity_transform",
    "synthetic",
    "untargeted",
    "whole_frame",
]
