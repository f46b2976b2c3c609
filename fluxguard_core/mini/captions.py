"""The caption grammar: attributes to words and back.

A caption is "a person with ..." followed by phrases in any order; adjectives bind to the next noun.
The little words are optional. Hair, background and clothes are always something, so leaving one
unmentioned means "any". Accessories (lipstick, eyeglasses, ...) are usually absent when unmentioned:
training drops the mention of one that is there in 6 of 100 cases only. "no" or "without" negates the
next noun, and those joined to it by "and" or "or"; a comma ends the negation. No word of a prompt is
dropped silently: what the grammar cannot hold is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..errors import FluxGuardError
from .portrait_spec import CHOICES, Attributes

ACCESSORIES = ("lipstick", "smile", "eyeglasses", "beard", "eyeshadow", "hat", "earrings")
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
    "or",
    "person",
    "photo",
    "portrait",
    "the",
    "wearing",
    "with",
    "woman",
)
_NEGATIONS = ("no", "without")
_ARTICLES = ("a", "an", "the", "her", "his")
_JOINING = ("and", "or")
_BOUNDARIES = (",", "with", "wearing", "in")
_PEOPLE = ("person", "man", "woman", "face", "head", "portrait", "photo")
# Only hair is ever so: "a blond woman" cannot mean anything else, "a red woman" might.
_HAIR_ONLY = ("blond", "curly")
# They stand before a person as adjectives do, and leave other adjectives to the next noun.
_DESCRIBING = ("smiling", "bearded", "bald")
# What an accessory looks like when its colour is not said.
_DEFAULT = {"lipstick": "red", "eyeshadow": "blue", "hat": "black"}
_SYNONYMS = {
    "gray": "grey",
    "blonde": "blond",
    "spectacles": "glasses",
    "earring": "earrings",
    "straight": "short",
}

WORDS: tuple[str, ...] = tuple(sorted({*_COLOURS, *_STYLES, *_NOUNS, *LITTLE_WORDS, *_NEGATIONS}))


def _tokens(text: str) -> list[str]:
    """Lower-case words with synonyms folded, and a comma for every mark that ends a clause."""
    found = [_SYNONYMS.get(w, w) for w in re.findall(r"[^\W\d_]+|[,;.:]", text.lower())]
    found = ["," if w in ";.:" else w for w in found]
    unknown = sorted(set(found) - set(WORDS) - {","})
    if unknown:
        raise FluxGuardError(
            f"The miniature does not know the word(s) {', '.join(unknown)}. "
            f"It knows: {', '.join(WORDS)}."
        )
    return found


def words(text: str) -> list[str]:
    """Lower-case words of a caption with synonyms folded; an unknown word is an error."""
    return [w for w in _tokens(text) if w != ","]


def _choices(name: str) -> str:
    if "yes" in CHOICES[name]:
        return f"{name} can be there or not"
    return f"{name.replace('_', ' ')} comes in {', '.join(CHOICES[name])}"


def _single(name: str, given: list[str]) -> str:
    if len(set(given)) > 1:
        raise FluxGuardError(
            f"Expected one {name.replace('_', ' ')}, got {' and '.join(given)}; {_choices(name)}."
        )
    return given[0]


def _hair(adjectives: list[str], negated: bool) -> dict[str, str]:
    if negated and adjectives:
        raise FluxGuardError(
            f"'no {' '.join(adjectives)} hair' leaves open what hair instead.",
            f"Say 'bald', or name the hair: {_choices('hair_style')}; {_choices('hair_colour')}.",
        )
    if negated:
        return {"hair_style": "bald"}
    kinds = {
        "hair_style": [w for w in adjectives if w in _STYLES],
        "hair_colour": [w for w in adjectives if w in _COLOURS],
    }
    return {kind: _single(kind, given) for kind, given in kinds.items() if given}


def _bald(negated: bool) -> dict[str, str]:
    if negated:
        raise FluxGuardError(
            "'not bald' leaves open what hair instead.", f"Name it: {_choices('hair_style')}."
        )
    return {"hair_style": "bald"}


def _bind(noun: str, adjectives: list[str], negated: bool) -> dict[str, str]:
    """What a noun with its adjectives asks for; nothing where no colour is said."""
    if noun == "bald":
        return _bald(negated)
    if noun == "hair":
        return _hair(adjectives, negated)
    styles = [w for w in adjectives if w in _STYLES]
    if styles:
        raise FluxGuardError(
            f"{' '.join(styles)} describes hair only, not {noun}; {_choices(noun)}."
        )
    absent = next((value for value in ("none", "no") if value in CHOICES[noun]), None)
    if negated and absent is None:
        raise FluxGuardError(f"There is always {noun}; {_choices(noun)}.")
    if negated and absent is not None:
        return {noun: absent}
    if "yes" in CHOICES[noun] and adjectives:
        raise FluxGuardError(
            f"Expected {noun} without a colour, got '{' '.join(adjectives)} {noun}'; {_choices(noun)}."
        )
    if "yes" in CHOICES[noun]:
        return {noun: "yes"}
    return {noun: _single(noun, adjectives)} if adjectives else {}


@dataclass
class _Reading:
    """A sentence under way: what it has asked for, and what waits for the next noun.

    Args:
        negation: "no" or "without" while it holds.
        carried: the word that carried it over from the noun before, "and" or "or".
        past: a negated noun has just been read, so that "and" carries its negation on.
    """

    asked: dict[str, str] = field(default_factory=dict)
    mentioned: list[str] = field(default_factory=list)
    adjectives: list[str] = field(default_factory=list)
    negation: str | None = None
    carried: str | None = None
    past: str | None = None

    def ask(self, found: dict[str, str]) -> None:
        """Add what a phrase asks for; two values of one attribute are an error."""
        for name, value in found.items():
            if value not in CHOICES[name]:
                raise FluxGuardError(f"{_choices(name)}; got {value!r}.")
            self.asked[name] = _single(name, [self.asked.get(name, value), value])

    def person(self, word: str) -> None:
        """A person takes adjectives that only hair can have."""
        other = [w for w in self.adjectives if w not in _HAIR_ONLY]
        if other:
            raise FluxGuardError(
                f"What of the {word} is {' '.join(other)}?",
                f"Name it, e.g. 'red lipstick'. {_things()}",
            )
        if self.negation is not None and self.carried is None:
            raise FluxGuardError(f"There is always a {word}; got '{self.negation} {word}'.")
        if self.adjectives:
            self.ask(_hair(self.adjectives, False))
        self.adjectives = []

    def noun(self, word: str) -> None:
        """A noun takes the adjectives before it, unless it describes a person as they do."""
        name, describing = _NOUNS[word], word in _DESCRIBING
        if describing and self.carried == "and":
            self.negation = None
        adjectives = [] if describing else self.adjectives
        if self.negation is not None and self.carried == "and" and adjectives:
            phrase = " ".join([*adjectives, word])
            raise FluxGuardError(
                f"Does {self.negation!r} reach {phrase!r}?",
                f"Write ', {phrase}' if there is one, 'or {word}' if there is none.",
            )
        self.ask(_bind(name, adjectives, self.negation is not None))
        self.mentioned.append(name)
        if not describing:
            self.adjectives = []
        self.past, self.negation, self.carried = self.negation, None, None

    def join(self, word: str) -> None:
        """ "and" or "or" after a negated noun carries its negation on."""
        if self.past is not None:
            self.negation, self.carried = self.past, word
        elif word == "or":
            raise FluxGuardError(
                "'or' leaves a choice, except after 'no' or 'without'.", "Say which."
            )

    def boundary(self, word: str) -> None:
        """A comma, or a word like "wearing": a carried negation ends here."""
        if self.carried is not None:
            self.negation = self.carried = None
        elif self.negation is not None and word == ",":
            raise FluxGuardError(f"What is there not, after {self.negation!r}? {_things()}")
        self.past = None


def _things() -> str:
    return f"Known: {', '.join(dict.fromkeys(_NOUNS))}."


def _read(reading: _Reading, word: str) -> None:
    """One word of a sentence."""
    if word in _NOUNS:
        reading.noun(word)
    elif word in _JOINING:
        reading.join(word)
    elif word in _NEGATIONS:
        reading.negation, reading.carried = word, None
    elif word in _COLOURS or word in _STYLES:
        reading.adjectives.append(word)
    elif word in _BOUNDARIES:
        reading.boundary(word)
    elif word in _ARTICLES and (reading.negation, reading.carried) == ("no", "and"):
        reading.boundary(word)  # "no beard and a smile", but "without a beard and a smile"
    elif word in _PEOPLE:
        reading.person(word)


def parse_caption(text: str) -> dict[str, str]:
    """Attributes that the words ask for, e.g. {"hair_colour": "blond", "lipstick": "red"}.

    Raises FluxGuardError, with what is known, for unknown words, for a colour or style that its noun
    does not come in, for two values of one thing, for adjectives without a noun, and for a negation that
    does not say what is wanted instead.
    """
    reading = _Reading()
    for word in _tokens(text):
        _read(reading, word)
    reading.boundary(",")
    if reading.adjectives:
        raise FluxGuardError(
            f"What is {' '.join(reading.adjectives)}?", f"Name it, e.g. 'red lipstick'. {_things()}"
        )
    for name in reading.mentioned:
        if name in _DEFAULT:
            reading.asked.setdefault(name, _DEFAULT[name])
    return reading.asked


def phrases(attributes: Attributes) -> dict[str, str]:
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
    p = phrases(attributes)
    having = [p[n] for n in ("hair", "beard") if n in p]
    worn = [p[n] for n in ("lipstick", "eyeshadow", "eyeglasses", "earrings", "hat") if n in p]
    text = f"a person with {_join(having)}"
    if worn:
        text += f", wearing {_join(worn)}"
    for name in ("smile", "clothes", "background"):
        if name in p:
            text += f", {p[name]}"
    return text
