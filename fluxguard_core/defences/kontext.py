"""Terms on an editor that sees the picture beside the one it makes (FLUX.1 Kontext): its edit, and where it looks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..protect.engine import Draw, Reading
from .surrogates import Editor, Encode, PromptedField, Watch, rms

_TIMES = (1.0, 0.95, 0.9)


@dataclass(frozen=True, eq=False)
class KontextEditTerm:
    """How far the editor's one-step edit leaves the clean picture's: ||ẑ0(x) - ẑ0(x0)|| / sqrt(n), in latents.

    ẑ0 = z_t - t·v(z_t, t, prompt, reference = E(x)) at t of 1, 0.95 or 0.9, with z_t = (1 - t)·E(x0) + t·ε. Both
    sides see the same noise and time; the clean side keeps the clean prompt.

    Args:
        clean: E(x0) [B, C, h, w].
        plain: the editor at the clean prompt.
    """

    encode: Encode
    editor: Editor
    clean: Tensor
    plain: PromptedField
    name: str = "kontext edit"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        """Read a picture [B, 3, H, W]; figure ``distance`` [B]."""
        reference = self.encode(picture)
        time = _TIMES[int(torch.randint(len(_TIMES), (1,), generator=draw.generator))]
        noise = torch.randn(self.clean.shape, generator=draw.generator).to(self.clean)
        noisy = (1 - time) * self.clean + time * noise
        with torch.no_grad():
            expected = noisy - time * self.plain.beside(self.clean)(noisy, time).float()
        edited = noisy - time * self.editor().beside(reference)(noisy, time).float()
        distance = rms(edited - expected)
        return Reading(-distance, figures={"distance": distance})


@dataclass(frozen=True, eq=False)
class KontextAttentionTerm:
    """How little the editor looks at the picture: 1 - the share of attention that its tokens get (as in DeContext).

    From pure noise at a late time, one new noise a step; the text-free part of what an edit takes from the picture.
    """

    encode: Encode
    editor: Editor
    watch: Watch
    name: str = "kontext attention"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        """Read a picture [B, 3, H, W]; figure ``share`` [B] of attention that is left to it."""
        reference, field = self.encode(picture), self.editor()
        time = 0.98 + 0.02 * float(torch.rand(1, generator=draw.generator))
        noise = torch.randn(reference.shape, generator=draw.generator).to(reference)
        grid = (-(-reference.shape[-2] // 2), -(-reference.shape[-1] // 2))
        with self.watch(field.context.shape[1], grid) as recording:
            field.beside(reference)(noise, time)
        share = torch.stack(recording.shares).mean(0).to(picture.device)
        return Reading(share - 1, figures={"share": share})
