"""How a model family lays pictures out: pixels, latent cells, tokens, and the blocks that carry structure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import FluxGuardError
from ..flow.field import Block


@dataclass(frozen=True)
class LatentGeometry:
    """The latent grid of a model family.

    Args:
        pixels: side of a latent cell in pixels.
        cells: side of a token in cells.
        channels: of the latent.
        detail: share of the single blocks, from the first on, that draw detail rather than structure.
    """

    pixels: int = 8
    cells: int = 2
    channels: int = 16
    detail: float = 20 / 38

    @property
    def pixels_per_token(self) -> int:
        """Side of a token in pixels."""
        return self.pixels * self.cells

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels, extended to whole tokens."""
        side = self.pixels_per_token
        return -(-height // side) * side, -(-width // side) * side

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the latent of a picture, whole tokens."""
        height, width = self.padded(height, width)
        return height // self.pixels, width // self.pixels

    def tokens(self, height: int, width: int) -> int:
        """Tokens of a picture of ``height`` x ``width`` pixels."""
        rows, columns = self.grid(height, width)
        return rows * columns // self.cells**2

    def tokens_of(self, grid: tuple[int, int]) -> int:
        """Tokens of a latent of ``grid`` = (height, width) cells."""
        return -(-grid[0] // self.cells) * -(-grid[1] // self.cells)

    def structure_blocks(self, single_blocks: int) -> tuple[Block, ...]:
        """The published choice, single blocks 20..37 of 38, scaled to another depth."""
        first = round(single_blocks * self.detail)
        return tuple(Block("single", i) for i in range(first, single_blocks))


FLUX = LatentGeometry()
"""FLUX.1: cells of 8 pixels, tokens of 2 x 2 cells, 16 channels."""

FLUX2 = LatentGeometry(channels=32)
"""FLUX.2's autoencoders: the same cells and tokens, 32 channels.

Its tiny autoencoder needs no scale and no shift: of 32 photos at 256 pixels the latent has the mean -0.02 and the
standard deviation 0.81 (0.54 to 1.09 by channel), and decoding it as it is comes closest, at 36.8 dB.
"""


def geometry_of(vae: Any) -> LatentGeometry:
    """The geometry of diffusers' autoencoder, by the channels of its latent.

    Raises:
        FluxGuardError: no family with that many channels is known.
    """
    channels = vae.config.latent_channels
    for geometry in (FLUX, FLUX2):
        if geometry.channels == channels:
            return geometry
    raise FluxGuardError(
        f"Expected an autoencoder with {FLUX.channels} latent channels (FLUX.1) or {FLUX2.channels} (FLUX.2), got "
        f"{channels}.",
        "Choose one of these.",
    )
