"""Chinese wishes: the lexicon's longest words in each clause, traditional characters read as simplified ones."""

from __future__ import annotations

import re

from .lexicon import load_lexicon
from .sentence import Hit

# Clauses of the Chinese part of a wish are counted after those of the rest.
_FIRST_CLAUSE = 1000


def chinese(text: str) -> tuple[list[Hit], list[str]]:
    """Hits of the Chinese parts of a text, and what was left over between them."""
    lexicon = load_lexicon()
    old, new = lexicon.table["zh_traditional"]
    plain = text.translate(str.maketrans(old, new))
    longest = max(map(len, lexicon.chinese))
    ordinary = sorted(lexicon.table["zh_ordinary"], key=len, reverse=True)
    hits: list[Hit] = []
    unknown: list[str] = []
    breaks = re.escape(lexicon.table["zh_breaks"])
    for clause, part in enumerate(re.split(f"[{breaks}]|同时|然后|但是", plain)):
        if not re.search(r"[\u4e00-\u9fff]", part):
            continue
        kept = any(word in part for word in lexicon.table["zh_keeps"])
        index, rest = 0, ""
        while index < len(part):
            for length in range(min(longest, len(part) - index), 0, -1):
                sense = lexicon.chinese.get(part[index : index + length])
                if sense is not None:
                    phrase = rest + part[index : index + length]
                    hits.append(Hit(sense, 0, 0, _FIRST_CLAUSE + clause, kept, phrase))
                    rest, index = "", index + length
                    break
            else:
                rest, index = rest + part[index], index + 1
        for word in (*ordinary, *lexicon.table["zh_keeps"]):
            rest = rest.replace(word, " ")
        unknown += [word for word in re.findall(r"[\u4e00-\u9fff]+", rest) if not hits]
    return hits, unknown
