"""People of the miniature by number: everybody of a world, in as many shots as wanted, drawn again from the number alone."""

from __future__ import annotations

import numpy as np

from .portrait_spec import PortraitSpec, identity, random_attributes, random_nuisance

HELD_OUT_WORLD = 77
"""Nobody of this world was shown to a network in training."""


def spec_of(world: int, person: int, shot: int) -> PortraitSpec:
    """Portrait `shot` of `person`; people of different worlds are different people."""
    rng = np.random.default_rng([world, person, 1 + shot])
    vector = identity(np.random.default_rng([world, person, 0]))
    return PortraitSpec(vector, random_attributes(rng), random_nuisance(rng))
