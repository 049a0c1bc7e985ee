"""Questions that say the same in the same or nearly the same words."""

from collections.abc import Sequence

from astuner.task_generation.draft import DraftCandidate, GateRejection
from astuner.task_generation.gates.duplicates.known_text import (
    KnownText,
    are_about_different_things,
)
from astuner.task_generation.gates.duplicates.near_index import NearIndex
from astuner.task_generation.gates.duplicates.words import hashed_pairs, words_of


class TextDuplicates:
    """Refuses a question that has the words of a known one, or shares too many pairs of them.

    A question in other words for the same thing is for `SemanticDuplicates`.
    """

    name = "duplicates"

    def __init__(self, *, max_ngram_overlap: float) -> None:
        """The largest share of common pairs of words, of all pairs of both, that passes."""
        self._known: list[KnownText] = []
        self._by_words: dict[tuple[str, ...], int] = {}
        self._near = NearIndex(max_ngram_overlap)

    async def prepare(self, candidate: DraftCandidate) -> None:
        """Nothing; it takes microseconds."""

    def find(self, candidate: DraftCandidate) -> GateRejection | None:
        """The exact repetition, else the nearest one, whatever else is near."""
        reason = self.find_text(KnownText.of(candidate))
        return None if reason is None else GateRejection(gate=self.name, reason=reason)

    def find_text(self, text: KnownText) -> str | None:
        """The same for a question that is no draft: what it repeats, in words."""
        words = words_of(text.question)
        if (number := self._by_words.get(tuple(words))) is not None:
            return f"it asks in the same words as {self._known[number]}"
        for overlap, number in self._near.find(hashed_pairs(words)):
            if not are_about_different_things(text, self._known[number]):
                return f"it shares {overlap:.0%} of the pairs of words with {self._known[number]}"
        return None

    def add(self, candidate: DraftCandidate) -> None:
        self.add_text(KnownText.of(candidate))

    async def add_known(self, texts: Sequence[KnownText]) -> None:
        """Seeds and questions of other sets, which are not judged themselves."""
        for text in texts:
            self.add_text(text)

    def add_text(self, text: KnownText) -> None:
        words = words_of(text.question)
        self._by_words.setdefault(tuple(words), len(self._known))
        self._near.add(hashed_pairs(words))
        self._known.append(text)
