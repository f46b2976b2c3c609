"""Drawn portraits and photos in a graph: nothing that knows only the one works on the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from ..fluxguard_core.faces.detectors import face_from_points
from ..fluxguard_core.mini.world_gate import Ways, check_world
from ..fluxguard_core.recognition import FaceEncoder
from ..fluxguard_core.worlds import Knower, known_by
from . import host
from .faces import Faces

WAYS = Ways(
    photo="Load recognisers of photos with FR Ensemble Loader (‹run models download auraface facexlib-irse50›), and "
    "find the face with Face Picker. The nodes of the miniature are for Miniature Portrait.",
    drawing="Use Miniature Recognisers for drawn portraits, or connect a photo.",
)


def recognisers(encoders: Iterable[FaceEncoder]) -> list[Knower]:
    """Recognisers with what they know."""
    return [Knower(encoder.name, encoder.world, judges=True) for encoder in encoders]


def face_finder(faces: Faces | None) -> list[Knower]:
    """Who found the faces."""
    if faces is None or faces.find is None:
        return []
    return [Knower("the face finder", known_by(faces.find))]


def vae_knower(vae: Any) -> Knower:
    """A VAE; the miniature's is known by its layout."""
    return Knower("the VAE", host.vae_world(vae))


def model_knower(model: Any) -> Knower:
    """A MODEL; the miniature's is known by its width."""
    return Knower("the model", host.model_world(model), judges=True)


def check_pictures(
    pictures: Tensor, points: Sequence[Tensor | None], knowers: Sequence[Knower]
) -> None:
    """WrongWorld where something knows only the world that a picture [B, 3, H, W] is not of.

    Args:
        points: of every picture's faces [faces, 5, 2]; pictures without a face pass, for nobody works on them, and
            None means that the picture is taken whole.
    """
    for number, (picture, located) in enumerate(zip(pictures, points, strict=True)):
        if located is not None and not len(located):
            continue
        found = () if located is None else tuple(face_from_points(five) for five in located)
        name = f"picture {number} of the batch" if len(pictures) > 1 else "the picture"
        with host.ordinary_tensors():
            one = picture[None].detach().float().cpu().clone()
            check_world(one, name[0].upper() + name[1:], knowers, WAYS, found)
