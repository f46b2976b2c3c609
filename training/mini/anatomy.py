"""How large a miniature is: the packaged one, and a second editor that stays outside the wheel.

The second one is another network of the same family, as two public FLUX models are: other widths and depths, its own
autoencoder and its own seed. A protection that never saw it is measured against it (`fluxguard bench shields`).
"""

from __future__ import annotations

from dataclasses import dataclass

# Of the autoencoder: channels, or residual blocks, at full, 1/2, 1/4 and 1/8 resolution.
Stages = tuple[int, int, int, int]


@dataclass(frozen=True)
class Anatomy:
    """Widths and depths of an autoencoder and its transformer; ``name`` begins its files' names."""

    name: str
    channels: Stages
    encoder: Stages
    decoder: Stages
    width: int
    double_blocks: int
    single_blocks: int


PACKAGED = Anatomy("fluxguard-mini", (16, 32, 64, 64), (1, 1, 2, 2), (1, 2, 2, 3), 256, 2, 6)
SECOND = Anatomy("fluxguard-second", (8, 16, 32, 64), (0, 1, 1, 2), (0, 1, 2, 2), 128, 2, 3)
