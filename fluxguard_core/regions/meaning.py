"""Where the lexicon ends: the region whose sentence means most nearly what the wish says.

The text encoder is whichever is at hand: the pipeline's CLIP, the published SBERT, any text -> vector. Vectors
are compared after the mean of all sentences is taken off, since encoders such as CLIP put every text close to
every other.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FluxGuardError
from ..weights.loading import load_tensors
from .lexicon import load_lexicon
from .sentence import candidates, read
from .words import Understanding, UnknownWords, message, understand

TextEncoder = Callable[[str], Tensor]
"""A text -> its vector [D]."""

# Calibrated by five-fold cross-validation on open wishes with each wish's own words taken out of the lexicon, in
# the vectors of all-MiniLM-L6-v2: 38 of 56 wishes understood. Other encoders were not measured.
THRESHOLD = 0.28
NEAR = 0.08
"""Regions so close to the nearest one are named with it."""
WORDS_A_KIND = 16
NEAREST = 2


@dataclass(frozen=True, eq=False)
class Meaning:
    """Words and sentences of each region in one encoder's vectors.

    names: the region of each row, "" for what is no wish; texts: the rows; vectors: centred unit vectors [R,D];
    mean: what was taken off [D].
    """

    encode: TextEncoder
    names: tuple[str, ...]
    texts: tuple[str, ...]
    vectors: Tensor
    mean: Tensor
    threshold: float = THRESHOLD

    @torch.no_grad()
    def scores(self, wish: str) -> dict[str, float]:
        """Mean cosine of the wish with each region's two nearest rows, best first; "" is no wish."""
        vector = F.normalize(self.encode(wish).detach().float().flatten().cpu(), dim=0)
        close = self.vectors @ F.normalize(vector - self.mean, dim=0)
        rows: dict[str, list[float]] = {}
        for name, score in zip(self.names, close.tolist(), strict=True):
            rows.setdefault(name, []).append(score)
        best = {name: sum(sorted(v)[-NEAREST:]) / min(NEAREST, len(v)) for name, v in rows.items()}
        return dict(sorted(best.items(), key=lambda row: -row[1]))

    def regions(self, wish: str) -> tuple[str, ...]:
        """The nearest region and one as near; none below the threshold or nearer to no wish at all."""
        scores = self.scores(wish)
        first = next(iter(scores))
        if not first or scores[first] < self.threshold:
            return ()
        return tuple(name for name, s in scores.items() if name and s >= scores[first] - NEAR)[:2]


def _rows() -> list[tuple[str, str]]:
    """(region, text): some words of each kind, evenly picked, a phrase and a sentence of each region."""
    table = load_lexicon().table
    rows: list[tuple[str, str]] = []
    for group in table["groups"]:
        words = [*group.get("nouns", ()), *group.get("adjectives", ())[: WORDS_A_KIND // 2]]
        chosen = words[:: max(1, len(words) // WORDS_A_KIND)][:WORDS_A_KIND]
        if not group.get("role"):
            rows += [(group["regions"][0], word.replace("_", "")) for word in chosen]
    rows += [(name, text) for name, row in table["sentences"].items() for text in row.split("|")]
    return [*rows, *(("", text) for text in table["no_wish"])]


@torch.no_grad()
def meaning(encode: TextEncoder, *, threshold: float = THRESHOLD) -> Meaning:
    """The regions in an encoder's vectors; some 700 short texts are encoded once."""
    rows = _rows()
    vectors = torch.stack([encode(text).detach().float().flatten().cpu() for _, text in rows])
    vectors = F.normalize(vectors, dim=1)
    mean = vectors.mean(0)
    centred = F.normalize(vectors - mean, dim=1)
    names, texts = zip(*rows, strict=True)
    return Meaning(encode, names, texts, centred, mean, threshold)


def understand_with(found: Meaning, wish: str, source: str | None = None) -> Understanding:
    """The lexicon's answer; where it has none and meets unknown words, the meaning's (`how` says which).

    A sentence that uses a region's word in another sense ("the neck of a bottle") is not asked again.
    """
    known = understand(wish, source)
    if known.regions or known.kept or not known.unknown or candidates(read(wish)):
        return known
    regions = found.regions(wish)
    return Understanding(regions, known.unknown, known.kept, "meaning") if regions else known


def read_meaning(found: Meaning) -> Callable[[str, str | None], Understanding]:
    """A reader for the sources. Raises UnknownWords where neither lexicon nor meaning knows a region."""

    def reader(wish: str, source: str | None = None) -> Understanding:
        known = understand_with(found, wish, source)
        if not known.regions:
            raise UnknownWords(*message(wish, known))
        return known

    return reader


def encoder_from(folder: str | Path) -> TextEncoder:
    """CLIP of a diffusers folder (tokenizer, text_encoder), else a sentence encoder's own files."""
    place = Path(folder)
    if (place / "text_encoder").is_dir():
        from transformers import CLIPTextModel, CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(place / "tokenizer", local_files_only=True)
        network = CLIPTextModel.from_pretrained(
            place / "text_encoder", local_files_only=True, use_safetensors=True
        )
        return clip_encoder(tokenizer, network.eval())
    return sentence_encoder(place)


def sentence_encoder(folder: str | Path) -> TextEncoder:
    """SBERT from a folder of its files (config.json, model.safetensors, tokenizer): mean of the tokens.

    Needs transformers. Raises FluxGuardError where it or a file is missing.
    """
    place = Path(folder)
    try:
        from transformers import AutoConfig, AutoModel, AutoTokenizer
    except ImportError as error:
        raise FluxGuardError(
            "A sentence encoder needs the package transformers, which is not installed.",
            "‹install transformers›.",
        ) from error
    if not (place / "config.json").is_file():
        raise FluxGuardError(
            f"{place} has no config.json: expected the folder of a sentence encoder such as "
            "all-mpnet-base-v2.",
            "Give the folder with config.json, model.safetensors and the tokenizer's files.",
        )
    values = json.loads((place / "config.json").read_text(encoding="utf-8"))
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    network = AutoModel.from_config(config)
    state, _ = load_tensors(place / "model.safetensors")
    missing = [
        name
        for name in network.load_state_dict(state, strict=False).missing_keys
        if not name.startswith("pooler.")
    ]
    if missing:
        raise FluxGuardError(
            f"{place}/model.safetensors lacks {len(missing)} tensors, first {missing[0]}."
        )
    network.eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)

    @torch.no_grad()
    def encode(text: str) -> Tensor:
        tokens = tokenizer(text, truncation=True, return_tensors="pt")
        hidden = network(**tokens).last_hidden_state
        weights = tokens["attention_mask"][..., None].to(hidden)
        out: Tensor = ((hidden * weights).sum(1) / weights.sum(1))[0]
        return out

    return encode


def clip_encoder(tokenizer: Any, network: Any) -> TextEncoder:
    """A diffusers pipeline's CLIP (`tokenizer`, `text_encoder`): its pooled vector."""

    @torch.no_grad()
    def encode(text: str) -> Tensor:
        tokens = tokenizer(text, truncation=True, max_length=77, return_tensors="pt")
        device = next(network.parameters()).device
        out: Tensor = network(tokens["input_ids"].to(device)).pooler_output[0]
        return out

    return encode
