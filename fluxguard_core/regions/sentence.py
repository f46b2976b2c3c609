"""One sentence as words, and the phrases of the lexicon that stand in it, longest first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from .lexicon import GAP, LONGEST_GAP, Sense, fold, load_lexicon

_WORD = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)*|[,;.:!?()\n，。；！？、]")
_CHINESE = re.compile(r"[\u4e00-\u9fff]+[A-Za-z]?[\u4e00-\u9fff]*|T恤")
POINT = ","


@dataclass(frozen=True)
class Token:
    """A folded word, or "," for every mark that ends a clause; capital: it is written like a name."""

    word: str
    capital: bool = False


@dataclass(frozen=True)
class Hit:
    """Words [start, end) of the sentence that name regions; clause: which one they stand in."""

    sense: Sense
    start: int
    end: int
    clause: int = 0
    kept: bool = False
    phrase: str = ""

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions."""
        return self.sense.regions


@dataclass(frozen=True)
class Sentence:
    """Tokens of one text."""

    text: str
    tokens: tuple[Token, ...]

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The folded words."""
        return tuple(token.word for token in self.tokens)

    def word(self, index: int) -> str:
        """The word at an index, or a clause's end outside of the text."""
        return self.words[index] if 0 <= index < len(self.words) else POINT

    def at(self, index: int, phrases: tuple[tuple[str, ...], ...]) -> int:
        """How many words from `index` on are one of the phrases; 0 where none is."""
        for phrase in phrases:
            if self.words[index : index + len(phrase)] == phrase:
                return len(phrase)
        return 0


def read(text: str) -> Sentence:
    """The sentence's tokens; hyphens part words, Chinese is left to `chinese`."""
    tokens = []
    latin = _CHINESE.sub(" , ", text)
    shouting = latin.upper() == latin
    first = True
    for match in _WORD.finditer(latin.replace("-", " ")):
        raw = match.group()
        if not raw[0].isalnum():
            tokens.append(Token(POINT))
            first = raw in ".!?\n" or first
            continue
        shouted = shouting or (raw.isupper() and len(raw) > 1)
        tokens.append(Token(fold(raw), raw[0].isupper() and not shouted and not first))
        first = False
    return Sentence(text, tuple(tokens))


def _matched(sentence: Sentence, index: int, phrase: tuple[str, ...]) -> int:
    """How many words from `index` on the phrase takes, its gap with it; 0 where it does not stand."""
    if GAP not in phrase:
        end = index + len(phrase)
        return len(phrase) if sentence.words[index:end] == phrase else 0
    cut = phrase.index(GAP)
    before, after = phrase[:cut], phrase[cut + 1 :]
    if sentence.words[index : index + cut] != before:
        return 0
    stops = load_lexicon().words("connectors") | {POINT}
    for gap in range(LONGEST_GAP + 1):
        start = index + cut + gap
        if sentence.words[start : start + len(after)] == after:
            return cut + gap + len(after)
        if sentence.word(start) in stops:
            return 0
    return 0


def _negated_noun(word: str) -> Sense | None:
    """hatless, beardless: the thing that is not there."""
    if not word.endswith("less"):
        return None
    for phrase, sense in load_lexicon().senses.get(word.removesuffix("less"), ()):
        if len(phrase) == 1 and sense.kind == "noun":
            return sense
    return None


def candidates(sentence: Sentence) -> list[Hit]:
    """Longest phrases from left to right, without those that the lexicon says mean something else."""
    lexicon, found, index = load_lexicon(), [], 0
    while index < len(sentence.words):
        word = sentence.word(index)
        other = sentence.at(index, lexicon.ignored.get(word, ()))
        best, sense = 0, None
        for phrase, meaning in lexicon.senses.get(word, ()):
            length = _matched(sentence, index, phrase)
            if length > best:
                best, sense = length, meaning
        joined = lexicon.senses.get(word + sentence.word(index + 1), ())
        if best < 2 and min(len(word), len(sentence.word(index + 1))) > 2:
            # Two words that the lexicon writes as one: head scarf, wind-swept.
            best, sense = next(((2, m) for p, m in joined if len(p) == 1), (best, sense))
        if not best and (negated := _negated_noun(word)):
            best, sense = 1, negated
        if sense is not None and best > other:
            phrase_text = " ".join(sentence.words[index : index + best])
            found.append(Hit(sense, index, index + best, phrase=phrase_text))
        index += max(best, other, 1)
    return found
