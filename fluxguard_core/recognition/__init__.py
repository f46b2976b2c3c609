"""Face recognition: encoders, alignment, ensembles, identities and thresholds."""

from __future__ import annotations

from .alignment import align, similarity_transform, whole_frame
from .encoder import FaceEncoder, Threshold
from .ensemble import Ensemble
from .faces import Face, FaceFinder, choose
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
