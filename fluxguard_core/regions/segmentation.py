"""CLIPSeg (arXiv 2112.10003) through transformers: words to a coarse mask, for what no face parser knows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..devices import beside
from ..errors import FluxGuardError
from ..resampling import shrink
from ..weights.loading import load_tensors
from ..weights.manifest import Entry
from .lexicon import load_lexicon

Segmenter = Callable[[Tensor, Sequence[str]], Tensor]
"""Picture [3,H,W] in [0,1], N phrases -> probabilities [N,H,W]."""


def clipseg(folder: str | Path, *, expected: Entry | None = None) -> Segmenter:
    """The segmenter of a folder with CLIPSeg's weights, config, preprocessor config and tokenizer.

    Raises FluxGuardError without transformers or with a file missing.
    """
    place = Path(folder)
    try:
        from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPTokenizer
    except ImportError as error:
        raise FluxGuardError(
            "CLIPSeg needs the package transformers, which is not installed.",
            "‹install transformers›.",
        ) from error
    for name in ("config.json", "preprocessor_config.json", "vocab.json", "merges.txt"):
        if not (place / name).is_file():
            raise FluxGuardError(
                f"{place} has no {name} beside CLIPSeg's weights.",
                "Fetch all its files with ‹run models download clipseg›.",
            )
    network = CLIPSegForImageSegmentation(CLIPSegConfig.from_dict(_json(place / "config.json")))
    state, _ = load_tensors(place / "model.safetensors", expected=expected)
    # Older files carry the position counters that transformers no longer keeps.
    missing = network.load_state_dict(state, strict=False).missing_keys
    if missing:
        raise FluxGuardError(
            f"{place}/model.safetensors does not fit its config.json: {len(missing)} tensors are missing, "
            f"the first is {missing[0]}."
        )
    network.eval().requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)
    return _segmenter(network, tokenizer, _json(place / "preprocessor_config.json"))


def _json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def _segmenter(network: Any, tokenizer: Any, prepared: dict[str, Any]) -> Segmenter:
    size = network.config.vision_config.image_size
    mean = torch.tensor(prepared.get("image_mean", (0.485, 0.456, 0.406))).view(1, 3, 1, 1)
    deviation = torch.tensor(prepared.get("image_std", (0.229, 0.224, 0.225))).view(1, 3, 1, 1)
    size = int(prepared["size"]["height"]) if isinstance(prepared.get("size"), dict) else size

    @torch.no_grad()
    def segment(picture: Tensor, phrases: Sequence[str]) -> Tensor:
        height, width = picture.shape[-2:]
        view = beside(network, shrink(picture[None].float(), (size, size)).clamp(0, 1))
        pixels = ((view - mean.to(view)) / deviation.to(view)).expand(len(phrases), -1, -1, -1)
        words = tokenizer(list(phrases), padding=True, return_tensors="pt").to(view.device)
        scores = network(pixel_values=pixels, **words).logits.reshape(len(phrases), 1, size, size)
        found = F.interpolate(scores.float().sigmoid(), (height, width), mode="bilinear")
        return found[:, 0].to(picture.device)

    return segment


def phrase_of(region: str) -> str:
    """A plain phrase for a region, as CLIPSeg was taught to read them."""
    phrases: dict[str, str] = load_lexicon().table["sentences"]
    return phrases[region].partition("|")[0]
