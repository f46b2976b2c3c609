"""Which faces a network knows, and which faces a picture shows: drawn ones or photos.

Everything that a user loads knows photos unless its file says otherwise; what is shipped inside the
package knows drawn portraits only and never judges, edits or calibrates a photo.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import Tensor

World = Literal["drawn", "photo"]
WORLDS: tuple[World, ...] = ("drawn", "photo")

WorldOf = Callable[[Tensor], World]
"""Picture [3,H,W] or [1,3,H,W], RGB in [0,1] -> the world it is of."""

Thing = TypeVar("Thing")


def known_by(thing: object) -> World | None:
    """What a detector, parser, autoencoder, FLUX or recogniser says that it knows; photos where it says nothing.

    None for what knows no faces at all, such as boxes that were typed by hand.
    """
    world: World | None = getattr(thing, "world", "photo")
    return world


def knows(world: World | None) -> Callable[[Thing], Thing]:
    """Let a function or a network say what it knows."""

    def marked(thing: Thing) -> Thing:
        vars(thing)["world"] = world
        return thing

    return marked


@dataclass(frozen=True)
class Knower:
    """Something that works on a picture, as a message names it.

    Args:
        world: what it knows; None for what knows no faces.
        judges: what it makes of the other world means nothing in either direction, as a recogniser's word does. A
            detector or an autoencoder of photos does a drawing no harm.
    """

    name: str
    world: World | None
    judges: bool = False

    def is_foreign(self, picture: World) -> bool:
        """Whether it must not work on a picture of that world."""
        if self.world is None or self.world == picture:
            return False
        return self.world == "drawn" or self.judges
