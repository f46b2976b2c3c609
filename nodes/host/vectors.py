"""A text's vector from the CLIP of a graph, by the smallest of its encoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor


def text_vectors(clip: Any) -> Callable[[str], Tensor] | None:
    """A text -> the pooled vector [D] of CLIP-L in a CLIP; None where there is no CLIP-L in it.

    Some 700 texts are encoded once, so FLUX's T5 beside CLIP-L is not run: on a CPU it would take an hour.
    """
    network = clip.cond_stage_model
    encoder = getattr(network, "clip_l", None)
    if encoder is None:
        return None
    clip.load_model(clip.tokenize(""))
    network.reset_clip_options()
    network.set_clip_options({"execution_device": clip.patcher.load_device})

    def encode(text: str) -> Tensor:
        return cast(Tensor, encoder.encode_token_weights(clip.tokenize(text)["l"])[1][0])

    return encode
