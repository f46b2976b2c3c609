"""Which regions of a portrait a wish talks about, and which two prompts differ in.

The words stand in `lexicon.json`. What a wish takes away ("no beard") is changed like what it brings; what it
keeps ("same hair") is not. Nothing here loads a network.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..errors import FluxGuardError
from .chinese import chinese
from .lexicon import fold, load_lexicon
from .sentence import Hit, Sentence, read
from .usage import hits_of

# The words of a hair style that make a new outline; with the same ones, new hair is a new colour.
_OUTLINES = frozenset({"long", "short", "curly", "wavy", "straight", "bob", "bald"})


class UnknownWords(FluxGuardError):
    """No word of the sentence names a region; the message offers the nearest words that do."""


@dataclass(frozen=True)
class Understanding:
    """regions: in order of mention, each once; unknown: words that are not in the lexicon.

    kept: regions that the wish says stay as they are; how: lexicon or meaning.
    """

    regions: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    how: str = "lexicon"


def known_words() -> tuple[str, ...]:
    """Every word and phrase that names a region, as the lexicon writes it, its inflections left out."""
    groups = load_lexicon().table["groups"]
    kinds = ("nouns", "verbs", "adjectives", "phrases", "zh")
    rows = (w.replace("_", "") for g in groups for k in kinds for w in g.get(k, ()))
    return tuple(dict.fromkeys(rows))


def region_names() -> tuple[str, ...]:
    """Every region that words can name."""
    groups = load_lexicon().table["groups"]
    return tuple(dict.fromkeys(region for group in groups for region in group["regions"]))


def nearest(word: str, count: int = 3) -> tuple[str, ...]:
    """Known words spelt like an unknown one, best first."""
    return tuple(difflib.get_close_matches(word.lower(), known_words(), count, 0.6))


def _kept(sentence: Sentence, hits: Sequence[Hit]) -> set[int]:
    """Starts of the hits that the wish says stay as they are."""
    lexicon, kept = load_lexicon(), set()
    breaks, starts = lexicon.words("breaks"), {hit.start: hit for hit in hits}
    for index in range(len(sentence.words)):
        if sentence.at(index, lexicon.phrases("removals")):
            continue
        length = sentence.at(index, lexicon.phrases("keeps"))
        place = index + length
        while length and place < len(sentence.words):
            word = sentence.word(place)
            another = word == "and" and sentence.word(place + 1) in breaks | {"a", "an", "new"}
            if word == "," or word in breaks or another:
                break
            if place in starts:
                kept.add(place)
                place = starts[place].end
            else:
                place += 1
        if sentence.at(index, lexicon.phrases("kept")):
            for hit in reversed([h for h in hits if h.end <= index]):
                between = sentence.words[hit.end : index]
                if "," in between or breaks & set(between):
                    break
                kept.add(hit.start)
    return kept


def _settled(hits: Sequence[Hit]) -> list[Hit]:
    """Hits that remain when a more exact word of the same clause silences a vaguer one."""
    lexicon = load_lexicon()
    silences, parts = lexicon.table["silences"], lexicon.words("parts")
    found = []
    for hit in hits:
        clause = [other for other in hits if other.clause == hit.clause and other is not hit]
        named = {region for other in clause for region in other.regions}
        losers = {loser for region in named for loser in silences.get(region, ())}
        placed = any(set(o.regions) & parts and not o.sense.yields for o in clause)
        rest = tuple(region for region in hit.regions if region not in losers)
        if rest and not (hit.sense.yields and placed):
            found.append(replace(hit, sense=replace(hit.sense, regions=rest)))
    return found


def _hits(text: str) -> tuple[Sentence, list[Hit], list[str]]:
    sentence = read(text)
    found = hits_of(sentence)
    kept = _kept(sentence, found)
    marked = [replace(hit, kept=hit.start in kept) for hit in found]
    asian, strange = chinese(text)
    return sentence, _settled([*marked, *asian]), strange


def _named(hits: Iterable[Hit]) -> tuple[str, ...]:
    rows = [hit for hit in hits if not hit.kept]
    told = [hit for hit in rows if not hit.sense.describes] or rows
    return tuple(dict.fromkeys(region for hit in told for region in hit.regions))


def _unknown(sentence: Sentence, hits: Sequence[Hit], strange: Sequence[str]) -> tuple[str, ...]:
    """Words of clauses without a hit that are neither ordinary nor known in any sense."""
    lexicon = load_lexicon()
    lists = (
        "ordinary",
        "carriers",
        "connectors",
        "prepositions",
        "commands",
        "persons",
        "keeps",
        "things",
        "subjects",
    )
    ordinary = frozenset().union(*(lexicon.words(name) for name in lists))
    taken = {hit.clause for hit in hits}
    clause, index, found = 0, 0, []
    ends = lexicon.words("connectors") | {","}
    inside = {i: hit for hit in hits for i in range(hit.start, hit.end)}
    for index, word in enumerate(sentence.words):
        if word in ends and index not in inside:
            clause += 1
        elif clause not in taken and word not in ordinary and word not in lexicon.senses:
            found.append(word)
    return tuple(dict.fromkeys([*(w for w in found if not w.isdigit()), *strange]))


def understand(text: str, source: str | None = None) -> Understanding:
    """What a wish names, or what differs between a source prompt and it; never raises for words."""
    sentence, hits, strange = _hits(text)
    kept = tuple(dict.fromkeys(region for hit in hits if hit.kept for region in hit.regions))
    regions = _named(hits) if source is None else _changed(source, text)
    return Understanding(regions, _unknown(sentence, hits, strange), kept)


def regions_in(text: str) -> tuple[str, ...]:
    """Names of the regions that the sentence mentions, in order of mention, each once.

    Raises UnknownWords when none is mentioned; the message says which words are near.
    """
    found = understand(text)
    if not found.regions:
        raise UnknownWords(*message(text, found))
    return found.regions


def growing(wish: str) -> frozenset[str]:
    """Regions whose new thing the wish says is large: a big hat, an afro, wide glasses."""
    sentence, hits, _ = _hits(wish)
    phrases = load_lexicon().phrases("larger")
    found: set[str] = set()
    for hit in hits:
        low = max((other.end for other in hits if other.end <= hit.start), default=0)
        nearby = range(max(low, hit.start - 3), hit.end)
        asian = any(p[0] in hit.phrase for p in phrases if not p[0].isascii())
        if asian or (hit.end and any(sentence.at(i, phrases) for i in nearby)):
            found |= set(hit.regions)
    return frozenset(found)


def message(text: str, found: Understanding) -> tuple[str, str]:
    """Message and remedy for a wish that names nothing."""
    if found.kept:
        return (
            f"{text!r} only says what stays as it is ({', '.join(found.kept)}), so nothing would be edited.",
            "Say what should change, or give a mask instead of words.",
        )
    near = [f"{word}: {', '.join(nearest(word))}" for word in found.unknown if nearest(word)]
    offered = f" Nearest known words: {'; '.join(near)}." if near else ""
    return (
        f"No face region is named in {text!r}.{offered}",
        f"Name at least one of: {', '.join(load_lexicon().table['examples'])}; or give a mask instead of "
        "words.",
    )


def _is_a_wish(source: str, target: str) -> bool:
    """Whether the target only says the change, where the source describes the whole picture."""
    people = load_lexicon().words("persons")
    before, after = set(read(source).words), read(target).words
    if after[:1] and after[0] in load_lexicon().words("commands"):
        return True
    return bool(people & before) and not people & set(after)


def _key(sentence: Sentence, hit: Hit) -> tuple[str, tuple[str, ...]]:
    """A hit as it is told: its words and the adjectives before them."""
    lexicon, index = load_lexicon(), hit.start
    stops = lexicon.words("connectors") | lexicon.words("prepositions") | {","}
    articles = {"a", "an", "the", "her", "his", "their", "is", "are", "has"}
    before = []
    while index > 0 and hit.end and sentence.word(index - 1) not in stops:
        index -= 1
        before.append(sentence.word(index))
    people = lexicon.words("persons")
    return hit.phrase, tuple(w for w in reversed(before) if w not in articles | people)


def _changed(source: str, target: str) -> tuple[str, ...]:
    if _is_a_wish(source, target):
        return _named(_hits(target)[1])
    (old, before, _), (new, after, _) = _hits(source), _hits(target)
    olds, news = {_key(old, hit) for hit in before}, {_key(new, hit) for hit in after}
    added = [hit for hit in after if _key(new, hit) not in olds]
    removed = [hit for hit in before if _key(old, hit) not in news]
    kept = {region for hit in after if hit.kept for region in hit.regions}
    rows = [hit for hit in (*added, *removed) if not hit.kept]
    found = tuple(region for region in _named(rows) if region not in kept)
    if not found:
        return ("face",) if _another_person(old, new) else ()
    same = _outlines(new, added) == _outlines(old, removed)
    renamed = {"hairstyle": "hair"} if same else {}
    return tuple(dict.fromkeys(renamed.get(region, region) for region in found))


def _outlines(sentence: Sentence, hits: Sequence[Hit]) -> frozenset[str]:
    hair = [hit for hit in hits if {"hair", "hairstyle"} & set(hit.regions)]
    told = {word for hit in hair for key in [_key(sentence, hit)] for word in key[1]}
    return _OUTLINES & (told | {word for hit in hair for word in hit.phrase.split()})


def _another_person(old: Sentence, new: Sentence) -> bool:
    """Whether one prompt shows a man and the other a woman, or a child, or a cat."""
    kinds = [set(words) for words in load_lexicon().table["genders"]]
    before, after = set(old.words), set(new.words)
    return [bool(k & before) for k in kinds] != [bool(k & after) for k in kinds]


def _said(text: str) -> list[str]:
    """Words and Chinese characters of a text, without marks."""
    return re.findall(r"[^\W_]+", fold(text))


def regions_of_edit(source: str, target: str) -> tuple[str, ...]:
    """Regions in which two prompts differ: those that only one of them names, or names otherwise.

    "black hair" -> "black hair, wearing red lipstick" is the lips alone, because the hair stays.
    A target that only says the change ("red lipstick") is read as a wish. Raises UnknownWords when
    the difference names no region.
    """
    if _said(source) == _said(target):
        raise UnknownWords(
            f"The source prompt and the target prompt say the same ({target!r}), so nothing would be "
            "edited.",
            "Change the target prompt, or give a mask.",
        )
    found = _changed(source, target)
    if not found:
        raise UnknownWords(*message(target, understand(target, source)))
    return found
