"""What helps on the command line where a picture met networks of the other world."""

from __future__ import annotations

from collections.abc import Iterable

from ..mini.world_gate import Ways
from ..recognition.encoder import FaceEncoder
from ..worlds import Knower

WAYS = Ways(
    photo="Give recognisers that know photos with ‹give recogniser› FILE: ‹run models download auraface sface yunet› "
    "fetches two and a detector (Apache-2.0 and MIT). An edit with words needs a FLUX of yours besides, with "
    "‹give model› DIR.",
    drawing="Leave ‹give recogniser› and ‹give model› out, for the miniature knows drawn portraits; or give a photo.",
)


def recognisers_as_knowers(encoders: Iterable[FaceEncoder]) -> list[Knower]:
    """Recognisers with what they know, as a message names them."""
    return [Knower(encoder.name, encoder.world, judges=True) for encoder in encoders]
