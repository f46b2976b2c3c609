"""The table of words that name regions: read once from `lexicon.json`, with every inflection of it."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "lexicon.json"
GAP = "..."
LONGEST_GAP = 3


@dataclass(frozen=True)
class Sense:
    """What a phrase means.

    kind: noun, verb, adjective, phrase, place or role; yields: a mark on the skin, whose place counts
    where one is named; describes: counts only where nothing else is named.
    """

    phrase: str
    regions: tuple[str, ...]
    kind: str
    yields: bool = False
    describes: bool = False


@dataclass(frozen=True)
class Lexicon:
    """senses: by first word, the phrases that start with it, longest first; table: the file itself."""

    senses: dict[str, tuple[tuple[tuple[str, ...], Sense], ...]]
    ignored: dict[str, tuple[tuple[str, ...], ...]]
    chinese: dict[str, Sense]
    table: dict[str, Any]

    def words(self, name: str) -> frozenset[str]:
        """A list of the file as a set of folded words or phrases."""
        return _folded_set(name)

    def phrases(self, name: str) -> tuple[tuple[str, ...], ...]:
        """A list of the file as tuples of words, longest first."""
        return _folded_phrases(name)


def fold(text: str) -> str:
    """Lower case, without accents and apostrophes."""
    plain = unicodedata.normalize("NFKD", text.lower())
    kept = "".join(c for c in plain if not unicodedata.combining(c))
    return re.sub(r"['’‘`´]", "", kept)


def plural(noun: str) -> str:
    """The regular English plural of a noun's last word."""
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"


def _stem(verb: str) -> str:
    """A verb as its -ing and -ed forms begin, its last consonant doubled where English does."""
    if re.search(r"^[^aeiou]*[aeiou][^aeiouwxy]$", verb):
        return verb + verb[-1]
    return verb[:-1] if verb.endswith("e") else verb


def verb_forms(verb: str) -> tuple[str, ...]:
    """smile -> smile, smiles, smiling, smiled; cry -> cries, crying, cried."""
    past = verb[:-1] + "ied" if re.search(r"[^aeiou]y$", verb) else _stem(verb) + "ed"
    return verb, plural(verb), _stem(verb) + "ing", past


def adjective_forms(adjective: str) -> tuple[str, ...]:
    """sad -> sad, sadder, saddest; one word only, longer phrases have no such forms."""
    if " " in adjective:
        return (adjective,)
    stem = adjective[:-1] + "i" if re.search(r"[^aeiou]y$", adjective) else _stem(adjective)
    return adjective, stem + "er", stem + "est"


def _spellings(phrase: str) -> Iterator[str]:
    """A phrase as one word and as two where an underscore joins them."""
    head, joint, tail = phrase.partition("_")
    if not joint:
        yield phrase
        return
    for rest in _spellings(tail):
        yield head + rest
        yield f"{head} {rest}"


def _forms(kind: str, phrase: str) -> Iterator[tuple[str, bool]]:
    """Every form of a phrase, and whether it is the one that stands in the file."""
    for spelling in _spellings(fold(phrase).replace("-", " ")):
        yield spelling, True
        if kind == "nouns":
            yield plural(spelling), False
        elif kind == "verbs":
            yield from ((form, False) for form in verb_forms(spelling))
        elif kind == "adjectives":
            yield from ((form, False) for form in adjective_forms(spelling))


def _sense(group: dict[str, Any], kind: str, phrase: str) -> Sense:
    name = {"nouns": "noun", "verbs": "verb", "adjectives": "adjective"}.get(kind, "phrase")
    if kind == "nouns" and (group.get("place") or group.get("role")):
        name = "place" if group.get("place") else "role"
    regions, yields = tuple(group["regions"]), bool(group.get("yields"))
    return Sense(phrase.replace("_", ""), regions, name, yields, bool(group.get("describes")))


@cache
def load_lexicon() -> Lexicon:
    """The lexicon of the package."""
    table: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    written: dict[str, Sense] = {}
    derived: dict[str, Sense] = {}
    chinese: dict[str, Sense] = {}
    for group in table["groups"]:
        for kind in ("nouns", "verbs", "adjectives", "phrases"):
            for phrase in group.get(kind, ()):
                for form, verbatim in _forms(kind, phrase):
                    (written if verbatim else derived).setdefault(form, _sense(group, kind, phrase))
        for phrase in group.get("zh", ()):
            chinese.setdefault(phrase, _sense(group, "phrases", phrase))
    senses: dict[str, list[tuple[tuple[str, ...], Sense]]] = {}
    for form, sense in (derived | written).items():
        words = tuple(form.split())
        senses.setdefault(words[0], []).append((words, sense))
    return Lexicon(
        {first: _longest_first(rows) for first, rows in senses.items()},
        _by_first(table["ignored"]),
        chinese,
        table,
    )


def _longest_first(
    rows: list[tuple[tuple[str, ...], Sense]],
) -> tuple[tuple[tuple[str, ...], Sense], ...]:
    return tuple(sorted(rows, key=lambda row: -len(row[0])))


def _by_first(phrases: list[str]) -> dict[str, tuple[tuple[str, ...], ...]]:
    found: dict[str, list[tuple[str, ...]]] = {}
    for phrase in phrases:
        words = tuple(fold(phrase).split())
        found.setdefault(words[0], []).append(words)
    return {first: tuple(sorted(rows, key=len, reverse=True)) for first, rows in found.items()}


@cache
def _folded_set(name: str) -> frozenset[str]:
    return frozenset(fold(word) for word in load_lexicon().table[name])


@cache
def _folded_phrases(name: str) -> tuple[tuple[str, ...], ...]:
    rows = (tuple(fold(phrase).split()) for phrase in load_lexicon().table[name])
    return tuple(sorted(rows, key=len, reverse=True))
