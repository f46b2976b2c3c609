"""No network of one world works on a picture of the other: one refusal for commands and nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import FluxGuardError
from ..faces.face import Face
from ..worlds import Knower, World
from .world_check import could_be_drawn, portrait_of, world_of


class WrongWorld(FluxGuardError):
    """A photo among networks that know drawings only, or a drawing among those that know photos."""


@dataclass(frozen=True)
class Ways:
    """What helps somebody, in a front end's own terms: with a photo, and with a drawing."""

    photo: str
    drawing: str


def world_shown(picture: Tensor, faces: Sequence[Face] = ()) -> World:
    """The world of a picture [1,3,H,W]: drawn where it is as a whole, or around one of its faces."""
    views = (portrait_of(picture, f.landmarks) for f in faces if f.landmarks is not None)
    drawn = world_of(picture) == "drawn" or any(world_of(view) == "drawn" for view in views)
    return "drawn" if drawn else "photo"


def check_world(
    picture: Tensor,
    name: str,
    knowers: Iterable[Knower],
    ways: Ways,
    faces: Sequence[Face] = (),
) -> World:
    """The picture's world; WrongWorld where something that is to work on it knows only the other one.

    Args:
        picture: [1,3,H,W] in [0,1].
        name: what a message calls it.
        faces: those that are meant, where they are known already; they are looked at by themselves too.
    """
    world = world_shown(picture, faces)
    foreign = [knower.name for knower in knowers if knower.is_foreign(world)]
    if not foreign:
        return world
    only = f"{_listed(foreign)} only"
    if world == "drawn":
        raise WrongWorld(
            f"{name} is a drawn portrait of the miniature's kind, but {only} photos: their verdict on it would mean "
            "nothing. Nothing was done.",
            ways.drawing,
        )
    if not could_be_drawn(picture):
        raise WrongWorld(
            f"No face was found in {name} that could be a drawn portrait's, and {only} these. Nothing was done.",
            ways.photo,
        )
    raise WrongWorld(
        f"{name} is a photo, but {only} drawn portraits: it would be disfigured, and every verdict would mean nothing. "
        "Nothing was done.",
        ways.photo,
    )


def _listed(foreign: Sequence[str]) -> str:
    if len(foreign) == 1:
        return f"{foreign[0]} knows"
    return f"{', '.join(foreign[:-1])} and {foreign[-1]} know"
