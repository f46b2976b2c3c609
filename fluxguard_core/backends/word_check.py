"""Text encoders proved on known sentences: different words must become different tokens and embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import FluxGuardError

# Of one length in letters and words, so that a tokenizer without a vocabulary cannot tell them apart.
_SENTENCES = ("red lips and brown hair", "big hats with green tie")
_TOKENS = 32
_SAME = 1e-4
_AGAIN = "Download the folder of FLUX.1-dev again, completely."


@torch.no_grad()
def require_words_told_apart(pipeline: Any, name: str) -> None:
    """Pass where CLIP and T5 of a FLUX pipeline tell two sentences apart.

    Raises:
        FluxGuardError: a tokenizer gives both the same tokens, or an encoder the same or unsound vectors.
    """
    for part in ("tokenizer", "tokenizer_2"):
        _require_tokens(getattr(pipeline, part), f"{name}/{part}")
    context, pooled, _ = pipeline.encode_prompt(
        list(_SENTENCES), prompt_2=None, max_sequence_length=_TOKENS
    )
    _require_different(pooled.float(), f"{name}/text_encoder")
    _require_different(context.float().flatten(1), f"{name}/text_encoder_2")


def _require_tokens(tokenizer: Any, name: str) -> None:
    first, second = (list(tokenizer(text).input_ids) for text in _SENTENCES)
    if first == second:
        raise FluxGuardError(
            f"The tokenizer {name} gives '{_SENTENCES[0]}' and '{_SENTENCES[1]}' the same tokens: its vocabulary is "
            "missing or damaged, and no prompt would have an effect.",
            _AGAIN,
        )


def _require_different(vectors: Tensor, name: str) -> None:
    if not bool(vectors.isfinite().all()):
        raise FluxGuardError(
            f"The text encoder {name} returns NaN or infinity for plain words.",
            "Use a wider number format (bfloat16 or float32), or download the folder again.",
        )
    difference = float((vectors[0] - vectors[1]).norm() / vectors.norm().clamp(min=1e-12))
    if difference < _SAME:
        raise FluxGuardError(
            f"The text encoder {name} gives '{_SENTENCES[0]}' and '{_SENTENCES[1]}' the same embedding: its weights "
            "are missing or damaged, and no prompt would have an effect.",
            _AGAIN,
        )
