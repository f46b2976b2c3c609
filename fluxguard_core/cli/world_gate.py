"""The command line's refusals where a picture met networks of the other world, and what helps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from ..faces.face import Face
from ..mini import world_gate
from ..mini.world_gate import Ways
from ..recognition.encoder import FaceEncoder
from ..worlds import Knower, World

WAYS = Ways(
    photo="Give recognisers that know photos with ‹give recogniser› FILE: ‹run models download auraface sface yunet› "
    "fetches two and a detector (Apache-2.0 and MIT). An edit with words needs a FLUX of yours besides, with "
    "‹give model› DIR.",
    drawing="Leave ‹give recogniser› and ‹give model› out, for the miniature knows drawn portraits; or give a photo.",
)


def check_world(
    picture: Tensor,
    name: str,
    encoders: Iterable[FaceEncoder],
    stack: World | None = None,
    faces: Sequence[Face] = (),
) -> World:
    """The world of a picture [1,3,H,W]; WrongWorld where recognisers or model know only the other one.

    stack: what the model that works on it knows, None where there is none.
    """
    knowers = [Knower(encoder.name, encoder.world, judges=True) for encoder in encoders]
    if stack is not None:
        knowers.insert(0, Knower("the model", stack, judges=True))
    return world_gate.check_world(picture, name, knowers, WAYS, faces)
