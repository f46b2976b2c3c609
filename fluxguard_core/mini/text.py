"""The miniature's text encoder: words of the caption grammar to FLUX's context and pooled vector.

FLUX gives text tokens no positions, so the encoder does: word embedding + position, then two small
convolutions that bind an adjective to its noun ("red hair" against "red lipstick"). Little words ("a",
"with", "wearing") carry nothing in this grammar and are skipped; an unknown word is an error that lists
the known ones. Empty text is the unconditional prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import FluxGuardError
from .captions import LITTLE_WORDS, WORDS, words

TOKENS = 24
CONTEXT_WIDTH = 128
POOLED_WIDTH = 128
CONTENT_WORDS: tuple[str, ...] = tuple(w for w in WORDS if w not in LITTLE_WORDS)


def token_ids(text: str, vocabulary: Sequence[str] = CONTENT_WORDS) -> list[int]:
    """Padded ids [TOKENS]; 0 is padding, word i of the vocabulary is i + 1."""
    content = [w for w in words(text) if w not in LITTLE_WORDS]
    if len(content) > TOKENS:
        raise FluxGuardError(
            f"A prompt of the miniature has at most {TOKENS} words besides little ones; got "
            f"{len(content)}.",
            "Leave some out.",
        )
    ids = [vocabulary.index(w) + 1 for w in content]
    return ids + [0] * (TOKENS - len(ids))


class TextEncoder(nn.Module):
    """Callable: texts -> (context [B,TOKENS,CONTEXT_WIDTH], pooled [B,POOLED_WIDTH])."""

    def __init__(self, vocabulary: Sequence[str] = CONTENT_WORDS, width: int = 128) -> None:
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        self.embedding = nn.Embedding(len(self.vocabulary) + 1, width)
        self.position = nn.Parameter(0.02 * torch.randn(TOKENS, width))
        self.bind = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.to_context = nn.Linear(width, CONTEXT_WIDTH)
        self.to_pooled = nn.Linear(width, POOLED_WIDTH)
        nn.init.normal_(self.embedding.weight, std=0.5)

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids [B,TOKENS] -> context and pooled."""
        real = (ids > 0).unsqueeze(-1).float()
        hidden = self.embedding(ids) + self.position
        for convolution in self.bind:
            mixed = convolution((hidden * real).transpose(1, 2)).transpose(1, 2)
            hidden = hidden + nn.functional.silu(mixed)
        hidden = self.norm(hidden)
        summed = (hidden * real).sum(1) / real.sum(1).clamp(min=1.0) ** 0.5
        return self.to_context(hidden), self.to_pooled(summed)

    def forward(self, texts: str | Sequence[str]) -> tuple[Tensor, Tensor]:
        """Raises FluxGuardError for words outside the vocabulary."""
        batch = [texts] if isinstance(texts, str) else list(texts)
        ids = torch.tensor([token_ids(t, self.vocabulary) for t in batch])
        return self.encode_ids(ids.to(self.position.device))


def text_metadata(encoder: TextEncoder) -> dict[str, str]:
    """What a file has to carry besides the tensors."""
    return {"format": "pt", "licence": "Apache-2.0", "vocabulary": json.dumps(encoder.vocabulary)}


def text_encoder_from(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> TextEncoder:
    """Rebuild from a safetensors file's tensors and metadata (float32, evaluation mode)."""
    if "vocabulary" not in metadata or "embedding.weight" not in state:
        raise FluxGuardError(
            "Expected the miniature's text encoder (embedding.weight, and a vocabulary in the metadata); "
            f"the file has {', '.join(sorted(state)[:3])}."
        )
    encoder = TextEncoder(json.loads(metadata["vocabulary"]), state["embedding.weight"].shape[1])
    encoder.load_state_dict({k: v.float() for k, v in state.items()})
    return encoder.eval()


CONCEPTS: Mapping[str, str] = {
    "background": "background",
    "skin": "",
    "eyes": "eyeshadow",
    "glasses": "glasses",
    "lips": "lipstick",
    "clothes": "clothes",
    "hair": "hair",
    "hat": "hat",
}
"""The parts of `regions.concepts` in the words of the grammar; skin has none, and is what no word means."""
