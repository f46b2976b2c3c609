"""What a defence hands back: the picture, where it was changed, and how that came about."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .engine import Step


@dataclass(frozen=True, eq=False)
class Defended:
    """A protected picture.

    Args:
        picture: [B, 3, H, W] in [0, 1].
        region: where it may differ from the source, [1 or B, 1, H, W] in [0, 1].
        log: of the descent.
        settled: what was read of the picture as it is stored; None where nothing was rounded.
        interrupted: the user stopped it; the picture is the best so far.
    """

    picture: Tensor
    region: Tensor
    log: tuple[Step, ...]
    settled: Step | None = None
    interrupted: bool = False
