"""How much of a picture a shield changed: budget used, PSNR, SSIM, and the likeness of a face in it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from .likeness import Likeness, likeness
from .quality import psnr, ssim


@dataclass(frozen=True)
class Change:
    """What a shield did to a picture, in the figures that say whether it shows.

    Args:
        used: largest change of a value, of 255.
        psnr: in dB; inf where nothing changed.
        ssim: None for a picture of fewer than 11 pixels a side.
        face: the likeness over the face; None where none was found.
    """

    used: float
    psnr: float
    ssim: float | None
    face: Likeness | None = None

    def to_dict(self) -> dict[str, Any]:
        """For a report in JSON; an unchanged picture has no PSNR."""
        return {
            "used_of_255": round(self.used, 2),
            "psnr": None if math.isinf(self.psnr) else self.psnr,
            "ssim": self.ssim,
            "likeness": None
            if self.face is None
            else {**asdict(self.face), "verdict": self.face.verdict},
        }

    def told(self) -> str:
        """One line."""
        parts = [f"{self.used:.0f} of 255 used", f"PSNR {self.psnr:.1f} dB"]
        parts += [] if self.ssim is None else [f"SSIM {self.ssim:.3f}"]
        parts += [] if self.face is None else [f"over the face {self.face.told()}"]
        return ", ".join(parts)


def change_of(before: Tensor, after: Tensor, landmarks: Tensor | None = None) -> Change:
    """Compare a shielded picture [1, 3, H, W] with its source, over the face at five points where there is one."""
    small = min(before.shape[-2:]) < 11
    return Change(
        used=255 * float((after - before).abs().max()),
        psnr=psnr(after, before),
        ssim=None if small else ssim(after, before),
        face=None if landmarks is None else likeness(before, after, landmarks),
    )
