"""A search in the passages of a generated set, by BM25: a pure function of the words."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

_WORD = re.compile(r"\w+(?:[._]\w+)*")
_FREQUENCY, _LENGTH = 1.2, 0.75
"""k1 and b of BM25: how soon a word that comes again counts less, and how far length does."""


class PassageSearch:
    """Finds the passages that have most of the rarer words of a query.

    Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009.
    """

    def __init__(self, passages: Sequence[str]) -> None:
        self._passages = passages
        self._counts = [Counter(_words(passage)) for passage in passages]
        self._mean_length = sum(c.total() for c in self._counts) / max(1, len(passages))
        num_with = Counter(word for counts in self._counts for word in counts)
        self._rarity = {
            word: math.log(1 + (len(passages) - number + 0.5) / (number + 0.5))
            for word, number in num_with.items()
        }

    def find(self, query: str, *, num_found: int) -> list[str]:
        """The best first; fewer where no more have a word of the query."""
        words = {word for word in _words(query) if word in self._rarity}
        scores = [sum(self._score(counts, word) for word in words) for counts in self._counts]
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        return [self._passages[index] for index in order[:num_found] if scores[index] > 0]

    def _score(self, counts: Counter[str], word: str) -> float:
        length = 1 - _LENGTH + _LENGTH * counts.total() / self._mean_length
        times = counts[word]
        return self._rarity[word] * times * (_FREQUENCY + 1) / (times + _FREQUENCY * length)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


@cache
def open_search(chunks_file: Path) -> PassageSearch:
    """Over the chunks of a generated set; read once in a process."""
    lines = chunks_file.read_text(encoding="utf-8").splitlines()
    chunks = [json.loads(line) for line in lines]
    return PassageSearch([_with_headings(chunk["headings"], chunk["text"]) for chunk in chunks])


def _with_headings(headings: Sequence[str], text: str) -> str:
    return f"{' > '.join(headings)}\n{text}" if headings else text
