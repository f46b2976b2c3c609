"""Whether a word that the lexicon knows is used in that sense.

An adjective must be said of a person ("a tan jacket" is no skin), a place must be a place ("forest green" is
none), a name is a name ("Bob"), and the neck of a bottle is no neck.
"""

from __future__ import annotations

import re
from dataclasses import replace

from .lexicon import Sense, load_lexicon
from .sentence import POINT, Hit, Sentence, candidates


def hits_of(sentence: Sentence) -> list[Hit]:
    """The hits that are meant, in order, with their clauses."""
    connectors = load_lexicon().words("connectors") | {POINT}
    found, clause, index = [], 0, 0
    for hit in _Usage(sentence).meant():
        clause += sum(word in connectors for word in sentence.words[index : hit.start])
        index = hit.end
        found.append(replace(hit, clause=clause))
    return found


class _Usage:
    """Decides which candidates are meant; holds what every rule looks at."""

    def __init__(self, sentence: Sentence) -> None:
        self.sentence = sentence
        self.lexicon = load_lexicon()
        self.candidates = candidates(sentence)
        self.starts = {hit.start: hit for hit in self.candidates}
        self.inside = {i for hit in self.candidates for i in range(hit.start, hit.end)}

    def meant(self) -> list[Hit]:
        """The candidates that are meant, and places known by their preposition alone."""
        if self._about_a_thing():
            return []
        skipped = self._of_things()
        hits = [
            hit
            for hit in self.candidates
            if hit.start not in skipped and not self._named(hit) and self._used(hit)
        ]
        taken = {i for hit in hits for i in range(hit.start, hit.end)}
        return sorted([*hits, *self._places(taken)], key=lambda hit: hit.start)

    def _used(self, hit: Hit) -> bool:
        if hit.sense.kind == "adjective":
            return self._said_of_a_person(hit)
        if hit.sense.kind == "place":
            return self._is_a_place(hit)
        if hit.sense.kind == "role":
            return self._is_a_role(hit)
        return not self._of_a_thing(hit)

    # Adjectives.

    def _said_of_a_person(self, hit: Hit) -> bool:
        words, index = self.lexicon.words, hit.end
        after = self.sentence.word(index)
        if after in words("pointing"):
            return False
        ends = words("connectors") | words("prepositions") | {POINT}
        while True:
            word, other = self.sentence.word(index), self.starts.get(index)
            if word in ends:
                return True
            if word in words("pictures"):
                return False
            if word in words("carriers"):
                return not hit.sense.describes or self._nothing_happens(index + 1)
            if other is not None and other.sense.kind == "adjective":
                index = other.end
            elif other is not None or word not in words("ordinary"):
                return False
            else:
                index += 1

    def _nothing_happens(self, index: int) -> bool:
        """Whether a person's description ends here, not in what the person does."""
        words = self.lexicon.words
        ends = words("connectors") | words("prepositions") | {POINT}
        return self.sentence.word(index) in ends or index in self.starts

    # Places.

    def _preposition(self, start: int) -> bool:
        words = self.lexicon.words
        for index in range(start - 1, max(-1, start - 6), -1):
            word = self.sentence.word(index)
            if word in words("prepositions"):
                return True
            if word == POINT or word in words("connectors") or word in words("persons"):
                return False
        return False

    def _possessed(self, start: int) -> bool:
        """Whether "of the" stands before a word."""
        index = start - 1
        while self.sentence.word(index) in ("the", "a", "an", "this", "that"):
            index -= 1
        return self.sentence.word(index) == "of"

    def _is_a_place(self, hit: Hit) -> bool:
        words, after = self.lexicon.words, self.starts.get(hit.end)
        if after is not None and after.sense.kind in ("noun", "adjective"):
            return False
        low, high = self._clause(hit.start)
        later = [h for h in self.candidates if hit.end <= h.start < high and h.sense.kind == "noun"]
        if self.sentence.word(hit.end) in words("colours") and later:
            return False
        if self._preposition(hit.start):
            return True
        if self._possessed(hit.start):
            return False
        others = [h for h in self.candidates if low <= h.start < high and h.sense.kind != "place"]
        known = words("ordinary") | words("prepositions") | words("commands")
        strange = [
            i
            for i in range(low, high)
            if i not in self.inside and self.sentence.word(i) not in known
        ]
        people = words("persons") & set(self.sentence.words[low:high])
        return not others and not people and len(strange) <= 2

    def _clause(self, index: int) -> tuple[int, int]:
        """The clause around a word, cut at marks and connectors."""
        stops = self.lexicon.words("connectors") | {POINT}
        low = high = index
        while low > 0 and self.sentence.word(low - 1) not in stops:
            low -= 1
        while high < len(self.sentence.words) and self.sentence.word(high) not in stops:
            high += 1
        return low, high

    def _places(self, taken: set[int]) -> list[Hit]:
        """In front of anything, and at places whose names are not in the lexicon."""
        found, words = [], self.lexicon.words
        sense = Sense("place", ("background",), "phrase")
        for index in range(len(self.sentence.words)):
            length = self.sentence.at(index, self.lexicon.phrases("front"))
            end = index + length
            if length:
                near = {self.sentence.word(i) for i in range(end, end + 3)}
                if not near & words("close") and not taken & set(range(end, end + 3)):
                    found.append(Hit(sense, index, end, phrase=self.sentence.word(end)))
                continue
            if index and self.sentence.tokens[index].capital and index not in self.inside:
                word, before = self.sentence.word(index), self.sentence.word(index - 1)
                strange = word in words("calendar") or (before != "in" and word in words("names"))
                lives = self.sentence.word(index - 2) in words("dwelling")
                if before in ("in", "at", "on", "near", "outside") and not strange and not lives:
                    found.append(Hit(sense, index, index + 1, phrase=word))
        return found

    # Roles, names, things.

    def _is_a_role(self, hit: Hit) -> bool:
        """After "as a" or "into a", whatever adjectives stand between, or the sentence's only word."""
        articles = {"as", "into", "like", "a", "an", "the", "another", "different"}
        describing = self._plain() - articles
        index = hit.start
        while index > 0:
            before = self.starts.get(index - 1)
            adjective = before is not None and before.sense.kind == "adjective"
            if not adjective and self.sentence.word(index - 1) not in describing:
                break
            index -= 1
        for phrase in self.lexicon.phrases("transforms"):
            if index and self.sentence.words[max(0, index - len(phrase)) : index] == phrase:
                return not self._works_as(index - len(phrase))
        return self._alone(hit)

    def _plain(self) -> frozenset[str]:
        return self.lexicon.words("ordinary") - self.lexicon.words("pictures")

    def _alone(self, hit: Hit) -> bool:
        """Whether nothing but ordinary words and other hits stand around a word."""
        rest = (i for i in range(len(self.sentence.words)) if not hit.start <= i < hit.end)
        known = self._plain() | {POINT}
        plain = all(self.sentence.word(i) in known or i in self.starts for i in rest)
        others = self.lexicon.words("persons") | self.lexicon.words("subjects")
        return plain and hit.phrase not in others

    def _works_as(self, index: int) -> bool:
        return self.sentence.word(index - 1) in self.lexicon.words("dwelling")

    def _named(self, hit: Hit) -> bool:
        """Whether the word is somebody's name."""
        words = self.lexicon.words
        if hit.end - hit.start != 1 or hit.phrase not in words("names"):
            return False
        token, before = self.sentence.tokens[hit.start], self.sentence.word(hit.start - 1)
        after = self.sentence.word(hit.end)
        if token.capital:
            described = before in words("ordinary") - words("commands") - words("function")
            place = hit.sense.kind == "place" and before in words("prepositions")
            return not (described or place or after in words("carriers") or after == "hair")
        does = words("commands") | words("name_verbs") | {"a", "an"}
        if before in words("commands") and (after in does or hit.end in self.starts):
            return True
        written = re.match(r"\W*(\w)", self.sentence.text)
        first = hit.start == 0 and written is not None and written.group(1).isupper()
        follows = after in words("name_verbs") or (
            after.endswith(("s", "ed")) and after not in self._known()
        )
        return first and hit.sense.kind != "adjective" and follows

    def _known(self) -> frozenset[str]:
        return self.lexicon.words("ordinary") | self.lexicon.words("persons")

    def _of_a_thing(self, hit: Hit) -> bool:
        """The neck of "bottle neck", the leather of "a leather suitcase"."""
        words = self.lexicon.words
        limb = self.sentence.word(hit.start) in words("limbs")
        if limb and self.sentence.word(hit.start - 1) in words("things"):
            return True
        return hit.end not in self.starts and self.sentence.word(hit.end) in words("subjects")

    def _of_things(self) -> set[int]:
        """Starts of candidates in "the mouth of the river", both of them."""
        skipped: set[int] = set()
        words = self.lexicon.words
        for hit in self.candidates:
            if self.sentence.word(hit.end) != "of":
                continue
            for index in range(hit.end + 1, hit.end + 5):
                word = self.sentence.word(index)
                if word in words("things"):
                    skipped |= {hit.start, index}
                if word == POINT or word in words("carriers") or word in words("things"):
                    break
        return skipped

    def _about_a_thing(self) -> bool:
        """Whether the sentence tells of an animal or a thing, as captions do."""
        words, index = self.lexicon.words, 0
        if set(self.sentence.words) & words("persons") or self._somebodys():
            return False
        while self._describing(index):
            index += 1
        length = self.sentence.at(index, self.lexicon.phrases("subjects"))
        hit = self.starts.get(index)
        if not length or (hit is not None and hit.end - hit.start > length):
            return False
        after = self.sentence.word(index + length)
        verb = after in words("name_verbs") - {"and", "wearing"}
        verb = verb or (after.endswith(("ing", "s", "ed")) and after not in words("ordinary"))
        place = hit is not None and hit.sense.kind == "place"
        if place and after in words("prepositions"):
            return False
        return verb or after in ("are", "were") or (after in words("prepositions") and not place)

    def _somebodys(self) -> bool:
        """Whether a part of somebody is named: "behind her ear"."""
        owners = {"her", "his", "their", "my", "your"}
        return any(self.sentence.word(hit.start - 1) in owners for hit in self.candidates)

    def _describing(self, index: int) -> bool:
        words, hit = self.lexicon.words, self.starts.get(index)
        adjective = hit is not None and hit.sense.kind == "adjective"
        return adjective or self.sentence.word(index) in words("ordinary") - words("pictures")
