"""The caption grammar: attributes to words and back.

A caption is "a person with ..." followed by phrases in any order; adjectives bind to the next noun.
Commas and the little words are optional. Hair, background and clothes are always something, so leaving
one unmentioned means "any". Accessories (lipstick, eyeglasses, ...) are usually absent when unmentioned:
training drops the mention of one that is there in 6 of 100 cases only. "no" or "without" negates the
next noun.
"""

from __future__ import annotations

import re

import numpy as np

from ..errors import FluxGuardError
from .portrait_spec import CHOICES, Attributes

ACCESSORIES = ("lipstick", "smile", "eyeglasses", "beard", "eyeshadow", "hat", "earrings")
SCENE = ("hair", "background", "clothes")
_COLOURS = (
    "black",
    "blond",
    "blue",
    "brown",
    "dark",
    "green",
    "grey",
    "pink",
    "purple",
    "red",
    "white",
    "yellow",
)
_STYLES = ("short", "bob", "long", "curly")
_NOUNS = {
    "hair": "hair",
    "lipstick": "lipstick",
    "lips": "lipstick",
    "eyeshadow": "eyeshadow",
    "hat": "hat",
    "background": "background",
    "clothes": "clothes",
    "shirt": "clothes",
    "smile": "smile",
    "smiling": "smile",
    "eyeglasses": "eyeglasses",
    "glasses": "eyeglasses",
    "beard": "beard",
    "bearded": "beard",
    "earrings": "earrings",
    "bald": "bald",
}
LITTLE_WORDS = (
    "a",
    "an",
    "and",
    "face",
    "head",
    "her",
    "his",
    "in",
    "man",
    "of",
    "on",
    "person",
    "photo",
    "portrait",
    "the",
    "wearing",
    "with",
    "woman",
)
_NEGATIONS = ("no", "without")
_SYNONYMS = {
    "gray": "grey",
    "blonde": "blond",
    "spectacles": "glasses",
    "earring": "earrings",
    "straight": "short",
}

WORDS: tuple[str, ...] = tuple(sorted({*_COLOURS, *_STYLES, *_NOUNS, *LITTLE_WORDS, *_NEGATIONS}))


def words(text: str) -> list[str]:
    """Lower-case words of a caption with synonyms folded; an unknown word is an error."""
    found = [_SYNONYMS.get(w, w) for w in re.findall(r"[a-z]+", text.lower())]
    unknown = sorted(set(found) - set(WORDS))
    if unknown:
        raise FluxGuardError(
            f"The miniature does not know the word(s) {', '.join(unknown)}. "
            f"It knows: {', '.join(WORDS)}."
        )
    return found


def _bind(noun: str, adjectives: list[str], negated: bool) -> dict[str, str]:
    if noun == "bald":
        return {} if negated else {"hair_style": "bald"}
    if noun == "hair":
        pairs = [("hair_style" if w in _STYLES else "hair_colour", w) for w in adjectives]
        return dict(pairs)
    default = {"lipstick": "red", "eyeshadow": "blue", "hat": "black"}
    if negated:
        return {noun: "none" if noun in default else "no"}
    if "yes" in CHOICES[noun]:
        return {noun: "yes"}
    colours = [w for w in adjectives if w in _COLOURS]
    if not colours and noun not in default:
        return {}
    return {noun: colours[-1] if colours else default[noun]}


def parse_caption(text: str) -> dict[str, str]:
    """Attributes that the words ask for, e.g. {"hair_colour": "blond", "lipstick": "red"}.

    Raises FluxGuardError for unknown words, for a colour that its noun does not come in, and for
    adjectives without a noun.
    """
    asked: dict[str, str] = {}
    adjectives: list[str] = []
    negated = False
    for word in words(text):
        if word in _NEGATIONS:
            negated = True
        elif word in _COLOURS or word in _STYLES:
            adjectives.append(word)
        elif word in _NOUNS:
            asked |= _bind(_NOUNS[word], adjectives, negated)
            adjectives, negated = [], False
    if adjectives:
        raise FluxGuardError(f"What is {' '.join(adjectives)}? Name it, e.g. 'red lipstick'.")
    for name, value in asked.items():
        if value not in CHOICES[name]:
            raise FluxGuardError(
                f"{name.replace('_', ' ')} comes in {', '.join(CHOICES[name])}; got {value!r}."
            )
    return asked


def _phrases(attributes: Attributes) -> dict[str, str]:
    """One phrase for each thing that is there, by what it speaks of."""
    a = attributes
    hair = "a bald head" if a.hair_style == "bald" else f"{a.hair_style} {a.hair_colour} hair"
    phrases = {"hair": hair}
    for name in ("lipstick", "eyeshadow"):
        if getattr(a, name) != "none":
            phrases[name] = f"{getattr(a, name)} {name}"
    for name in ("eyeglasses", "earrings"):
        if getattr(a, name) == "yes":
            phrases[name] = name
    if a.hat != "none":
        phrases["hat"] = f"a {a.hat} hat"
    if a.beard == "yes":
        phrases["beard"] = "a beard"
    if a.smile == "yes":
        phrases["smile"] = "smiling"
    phrases["clothes"] = f"{a.clothes} clothes"
    phrases["background"] = f"{a.background} background"
    return phrases


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) < 2 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def caption(attributes: Attributes) -> str:
    """The full caption, e.g. "a person with long blond hair, wearing red lipstick and eyeglasses,
    smiling, blue clothes, white background"."""
    p = _phrases(attributes)
    having = [p[n] for n in ("hair", "beard") if n in p]
    worn = [p[n] for n in ("lipstick", "eyeshadow", "eyeglasses", "earrings", "hat") if n in p]
    text = f"a person with {_join(having)}"
    if worn:
        text += f", wearing {_join(worn)}"
    for name in ("smile", "clothes", "background"):
        if name in p:
            text += f", {p[name]}"
    return text


def _absent(name: str, rng: np.random.Generator) -> str:
    noun = {"smile": "smile"}.get(name, name)
    return f"{'no' if rng.random() < 0.5 else 'without'} {noun}"


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
    """A random wording: order, synonyms, mentions dropped (see the module's text), negations."""
    phrases = _phrases(attributes)
    kept: list[str] = []
    for name, phrase in phrases.items():
        drop = 0.22 if name in SCENE else 0.06
        if rng.random() >= drop:
            kept.append(_reworded(name, phrase, attributes, rng))
    missing = [n for n in ACCESSORIES if n not in phrases]
    for name in missing:
        if rng.random() < 0.05:
            kept.append(_absent(name, rng))
    if rng.random() < 0.5:
        rng.shuffle(kept)
    opening = ("a person with", "a person", "portrait of a person with", "a face with")
    start = opening[min(3, int(rng.random() ** 2 * 4))]
    return f"{start} {', '.join(kept)}".strip() if kept else "a person"
