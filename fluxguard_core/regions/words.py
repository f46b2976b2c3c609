"""Which regions of a portrait a sentence talks about: a table of words, and what wins when two hit.

The table holds the released code's keywords (its `auto_mask.py`) and the words that artists expect
besides: hats, clothes, background, hair styles. Longer phrases are read first and use up their
words, so that "eye shadow" is eyeshadow and not also eyes. "..." stands for up to three words, so
that "long ... hair" reads "long wavy blond hair".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from ..errors import FluxGuardError

REGION_WORDS: Mapping[str, tuple[str, ...]] = {
    "eyes": (
        "eye",
        "eyes",
        "eyeliner",
        "eye liner",
        "mascara",
        "eye makeup",
        "eye color",
        "eye colour",
        "eye shape",
        "eyelash",
        "eyelashes",
        "lashes",
    ),
    "pupils": ("pupil", "pupils", "iris", "irises"),
    "eyeshadow": ("eyeshadow", "eye shadow"),
    "eyebrows": ("eyebrow", "eyebrows", "brow", "brows"),
    "eyeglasses": (
        "eyeglasses",
        "eyeglass",
        "eye glasses",
        "glasses",
        "sunglasses",
        "spectacles",
        "goggles",
    ),
    "nose": ("nose", "nostrils"),
    "lips": ("lip", "lips", "lipstick", "lip gloss"),
    "mouth": ("mouth", "teeth"),
    "smile": ("smile", "smiles", "smiling", "grin", "grinning", "laughing", "frown", "frowning"),
    "expression": ("expression", "angry", "sad", "surprised"),
    "cheeks": ("cheek", "cheeks", "blush", "rouge"),
    "chin": ("chin",),
    "beard": (
        "beard",
        "bearded",
        "mustache",
        "moustache",
        "goatee",
        "stubble",
        "shaved",
        "shaven",
        "clean shaven",
        "clean-shaven",
    ),
    "forehead": ("forehead",),
    "hairline": ("hairline",),
    "bangs": ("bang", "bangs", "fringe"),
    "hairstyle": (
        "hairstyle",
        "hair style",
        "haircut",
        "ponytail",
        "afro",
        "braid",
        "braids",
        "dreadlocks",
        "bald",
        "long ... hair",
        "short ... hair",
        "curly ... hair",
        "wavy ... hair",
        "straight ... hair",
        "bob",
        "bob ... hair",
    ),
    "hair": ("hair", "blonde", "brunette", "redhead"),
    "makeup": ("makeup", "make-up", "make up"),
    "skin": ("skin", "complexion", "freckles", "wrinkles", "tan", "tanned"),
    "face_shape": ("face shape", "jawline"),
    "face": ("face", "older", "younger"),
    "ears": ("ear", "ears"),
    "earrings": ("earring", "earrings"),
    "neck": ("neck",),
    "necklace": ("necklace",),
    "hat": ("hat", "cap", "beanie", "helmet", "crown", "hood", "headscarf", "beret"),
    "clothes": (
        "clothes",
        "clothing",
        "shirt",
        "t-shirt",
        "blouse",
        "sweater",
        "jumper",
        "hoodie",
        "jacket",
        "coat",
        "suit",
        "dress",
        "scarf",
        "uniform",
    ),
    "background": ("background", "backdrop"),
}

# Within one clause the key silences the values ("the lips of her mouth" is lips): the released
# code's order of preference. It also lets eyes silence eyeglasses; here it does not, because "glasses
# over her eyes" asks for an object, and the eyeglasses region holds the eyes anyway.
SILENCES: Mapping[str, tuple[str, ...]] = {
    "lips": ("mouth",),
    "bangs": ("hair", "hairstyle", "forehead"),
    "eyes": ("makeup", "eyeshadow"),
    "hairstyle": ("hair",),
}

# Named by nearly every portrait prompt, so these count only where nothing else is named.
LAST_RESORT = ("face",)

# The words of a hair style that make a new outline; with the same ones, new hair is a new colour.
_OUTLINES = re.compile(r"\b(?:long|short|curly|wavy|straight|bob|bald)\b")

_CLAUSE = re.compile(r"[,;.:]|\b(?:and|with|wearing|without|has|having)\b")
_PLAIN = re.compile(r"\b(?:a|an|the|her|his|their|she|he|they|is|are)\b")


class UnknownWords(FluxGuardError):
    """No word of the sentence names a region; the message lists the words that do."""


def _pattern(phrase: str) -> str:
    middle = r"(?:\s+[\w-]+){0,3}?\s+"
    parts = [r"[\s-]+".join(map(re.escape, part.split())) for part in phrase.split(" ... ")]
    return middle.join(parts)


_REGION: Mapping[str, str] = {
    phrase: region for region, phrases in REGION_WORDS.items() for phrase in phrases
}
_PHRASES = sorted(_REGION, key=lambda phrase: (-len(phrase.split()), -len(phrase)))
_MATCHER = re.compile(
    rf"(?<![\w-])(?:{'|'.join(f'({_pattern(phrase)})' for phrase in _PHRASES)})(?![\w-])"
)


def known_words() -> tuple[str, ...]:
    """Every word and phrase that names a region, in the table's order."""
    return tuple(phrase for phrases in REGION_WORDS.values() for phrase in phrases)


def clauses(text: str) -> tuple[str, ...]:
    """The sentence cut at commas and at and/with/wearing, lower-case, articles dropped."""
    cut = (_PLAIN.sub(" ", part) for part in _CLAUSE.split(text.lower()))
    return tuple(clause for clause in (" ".join(part.split()) for part in cut) if clause)


def _hits(clause: str) -> Iterator[str]:
    found = [
        _REGION[_PHRASES[match.lastindex - 1]]
        for match in _MATCHER.finditer(clause)
        if match.lastindex
    ]
    silenced = {loser for winner in found for loser in SILENCES.get(winner, ())}
    yield from (region for region in found if region not in silenced)


def _regions(parts: Iterable[str]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(region for clause in parts for region in _hits(clause)))
    return tuple(region for region in found if region not in LAST_RESORT) or found


def regions_in(text: str) -> tuple[str, ...]:
    """Names of the regions that the sentence mentions, in order of mention, each once.

    Raises UnknownWords when none is mentioned; the message lists every word it would understand.
    """
    found = _regions(clauses(text))
    if not found:
        raise UnknownWords(
            f"No face region is named in {text!r}. Name at least one of: "
            f"{', '.join(known_words())}; or give a mask instead of words."
        )
    return found


def regions_of_edit(source: str, target: str) -> tuple[str, ...]:
    """Regions in which two prompts differ: those named by clauses that only one of them has.

    "black hair" -> "black hair, wearing red lipstick" is the lips alone, because the hair stays.
    Raises UnknownWords when the differing clauses name no region.
    """
    before, after = clauses(source), clauses(target)
    added = [clause for clause in after if clause not in before]
    removed = [clause for clause in before if clause not in after]
    if not added and not removed:
        raise UnknownWords(
            f"The source prompt and the target prompt say the same ({target!r}), so nothing would "
            "be edited. Change the target prompt, or give a mask."
        )
    found = _regions(added + removed) or regions_in(", ".join(added + removed))
    same_outline = _outlines(added) == _outlines(removed)
    renamed = {"hairstyle": "hair"} if same_outline else {}
    return tuple(dict.fromkeys(renamed.get(region, region) for region in found))


def _outlines(parts: Iterable[str]) -> set[str]:
    hair = (part for part in parts if {"hair", "hairstyle"} & set(_hits(part)))
    return {word for part in hair for word in _OUTLINES.findall(part)}
