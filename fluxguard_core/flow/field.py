"""The velocity field: what the flow needs to know of a network, and nothing more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from torch import Tensor

from ..errors import FluxGuardError

BlockKind = Literal["double", "single"]


@dataclass(frozen=True, order=True)
class Block:
    """One attention block: ``double`` blocks come first in FLUX, ``single`` blocks after them."""

    kind: BlockKind
    index: int


# Called at each attention with the values [B, T, D], text tokens first, and the number of text tokens.
# Returns the values to use instead, or None to leave them.
ValueTap = Callable[[Block, Tensor, int], Tensor | None]


@dataclass(frozen=True)
class Layout:
    """The shape of a transformer: enough to choose blocks and to recognise a foreign trajectory.

    Args:
        fingerprint: tells models of one shape apart; empty where the weights cannot be read.
        structure: blocks whose attention values carry a picture's structure, as the backend knows its family.
    """

    model: str
    double_blocks: int
    single_blocks: int
    width: int
    fingerprint: str = ""
    structure: tuple[Block, ...] = ()

    def matches(self, other: Layout) -> bool:
        """Whether a trajectory of one serves the other."""
        shapes = (replace(layout, fingerprint="", structure=()) for layout in (self, other))
        unknown = not self.fingerprint or not other.fingerprint
        return len(set(shapes)) == 1 and (unknown or self.fingerprint == other.fingerprint)


class VelocityField(Protocol):
    """Velocity dz/dσ of a rectified flow at one conditioning.

    Call: latent [B, C, H, W] in model space and σ in [0, 1] -> velocity [B, C, H, W]. σ = 0 is allowed:
    the raw network output is returned, never an x0 prediction divided by σ. ``tap`` sees the attention
    values of every block.
    """

    @property
    def layout(self) -> Layout: ...

    def __call__(self, latent: Tensor, sigma: float, tap: ValueTap | None = None) -> Tensor: ...


@dataclass(eq=False)
class Counted:
    """A velocity field that counts its evaluations; a batch of n counts n."""

    inner: VelocityField
    evaluations: int = field(default=0)

    @property
    def layout(self) -> Layout:
        return self.inner.layout

    def __call__(self, latent: Tensor, sigma: float, tap: ValueTap | None = None) -> Tensor:
        self.evaluations += latent.shape[0]
        return self.inner(latent, sigma, tap)


def require_finite(velocity: Tensor, sigma: float) -> Tensor:
    """Pass a velocity through, or stop with the σ at which the network broke down."""
    if not velocity.isfinite().all():
        raise FluxGuardError(
            f"The network returned NaN or infinity at σ = {sigma:.4f}.",
            "Use a wider number format (bfloat16 "
            "or float32), and check that the model file and its LoRAs fit each other.",
        )
    return velocity
