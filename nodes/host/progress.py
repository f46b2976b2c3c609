"""The host's progress bar, previews and interrupts; leaving its inference mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management as memory
import comfy.utils
import torch
from torch import Tensor

from ...fluxguard_core.pictures.files import to_pillow
from .flux import Model


@dataclass(eq=False)
class Progress:
    """The host's progress bar with a picture on it; stops the run where the user asked for it."""

    total: int
    bar: Any = field(init=False)

    def __post_init__(self) -> None:
        self.bar = comfy.utils.ProgressBar(self.total)

    def __call__(self, done: int, preview: Any = None) -> None:
        memory.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(done, self.total, preview)


def latent_preview(model: Model) -> Callable[[Tensor], Any]:
    """Model-space latent -> the host's own preview for the progress bar, or None where previews are off."""
    import latent_preview as previews

    previewer = previews.get_previewer(model.load_device, model.model.latent_format)

    def preview(latent: Tensor) -> Any:
        return (
            None if previewer is None else previewer.decode_latent_to_preview_image("JPEG", latent)
        )

    return preview


def picture_preview(picture: Tensor) -> Any:
    """The first picture of [B, 3, H, W] for the progress bar."""
    return "JPEG", to_pillow(picture[:1].detach().float().cpu().clamp(0, 1)), 512


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Leave the host's inference mode, so that what is made here may later take part in gradients."""
    with torch.inference_mode(False), torch.no_grad():
        yield
