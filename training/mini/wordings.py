"""Captions in many wordings, as a person might type them, for FLUX to learn from."""

from __future__ import annotations

import numpy as np

from fluxguard_core.mini.captions import ACCESSORIES, phrases
from fluxguard_core.mini.portrait_spec import Attributes

# Always something, so that a caption may leave it open.
SCENE = ("hair", "background", "clothes")


def _absent(name: str, rng: np.random.Generator) -> str:
    return f"{'no' if rng.random() < 0.5 else 'without'} {name}"


def _reworded(name: str, phrase: str, attributes: Attributes, rng: np.random.Generator) -> str:
    """The same thing in other words of the vocabulary."""
    if name == "hair" and attributes.hair_style != "bald" and rng.random() < 0.4:
        part = attributes.hair_colour if rng.random() < 0.6 else attributes.hair_style
        return f"{part} hair"
    swaps = {
        "eyeglasses": "glasses",
        "smile": "a smile",
        "clothes": f"a {attributes.clothes} shirt",
        "lipstick": f"{attributes.lipstick} lips",
        "beard": "bearded",
    }
    if name in swaps and rng.random() < 0.15:
        return swaps[name]
    return "bald" if phrase == "a bald head" and rng.random() < 0.4 else phrase


def training_caption(attributes: Attributes, rng: np.random.Generator) -> str:
    """A random wording: order, synonyms, mentions dropped (more often of what is always there), negations."""
    there = phrases(attributes)
    kept: list[str] = []
    for name, phrase in there.items():
        drop = 0.22 if name in SCENE else 0.06
        if rng.random() >= drop:
            kept.append(_reworded(name, phrase, attributes, rng))
    missing = [n for n in ACCESSORIES if n not in there]
    for name in missing:
        if rng.random() < 0.05:
            kept.append(_absent(name, rng))
    if rng.random() < 0.5:
        rng.shuffle(kept)
    opening = ("a person with", "a person", "portrait of a person with", "a face with")
    start = opening[min(3, int(rng.random() ** 2 * 4))]
    return f"{start} {', '.join(kept)}".strip() if kept else "a person"
