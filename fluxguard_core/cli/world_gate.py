"""No network of one world works on a picture of the other: the command line's refusals."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

from ..errors import FluxGuardError
from ..mini.world_check import likeness_to_a_drawing, world_of
from ..recognition.encoder import FaceEncoder
from ..worlds import World

PHOTO_WAYS = (
    "Give recognisers that know photos with ‹give recogniser› FILE: ‹run models download auraface sface yunet› "
    "fetches two and a detector (Apache-2.0 and MIT). An edit with words needs a FLUX of yours besides, with "
    "‹give model› DIR."
)
"""What helps somebody whose photo has met the miniature."""


class WrongWorld(FluxGuardError):
    """A photo among networks that know drawings only, or a drawing among those that know photos."""


def check_world(
    picture: Tensor, name: str, encoders: Iterable[FaceEncoder], stack: World | None = None
) -> World:
    """The picture's world; WrongWorld where the recognisers or the model know only the other one.

    picture: [1,3,H,W] in [0,1]; stack: what the model that edits it knows, None where there is none.
    """
    world = world_of(picture)
    foreign = [encoder.name for encoder in encoders if encoder.world != world]
    if stack is not None and stack != world:
        foreign.insert(0, "the model" if stack == "photo" else "the built-in miniature")
    if not foreign:
        return world
    if likeness_to_a_drawing(picture) == -math.inf:
        raise WrongWorld(
            f"No face was found in {name} that could be a drawn portrait's, and {_named(foreign)} only these. Nothing "
            "was done.",
            PHOTO_WAYS,
        )
    if world == "photo":
        raise WrongWorld(
            f"{name} is a photo, but {_named(foreign)} only drawn portraits: it would be disfigured, and every "
            "verdict would mean nothing. Nothing was done.",
            PHOTO_WAYS,
        )
    raise WrongWorld(
        f"{name} is a drawn portrait of the miniature's kind, but {_named(foreign)} only photos: their verdict on "
        "it would mean nothing. Nothing was done.",
        "Leave ‹give recogniser› and ‹give model› out, for the miniature knows drawn portraits; or give a photo.",
    )


def _named(foreign: list[str]) -> str:
    if len(foreign) == 1:
        return f"{foreign[0]} knows"
    return f"{', '.join(foreign[:-1])} and {foreign[-1]} know"
