"""Questions that ask for the same in other words, by the cosine of their embeddings."""

import asyncio
from collections.abc import Sequence

import numpy

from astuner.task_generation.draft import DraftCandidate, GateRejection
from astuner.task_generation.gates.duplicates.embedder import Embedder
from astuner.task_generation.gates.duplicates.known_text import (
    KnownText,
    are_about_different_things,
)


class SemanticDuplicates:
    """Refuses a question whose meaning is too close to that of a known one.

    A question is embedded together with its answer: over pairs written for it, this moved
    paraphrases from 0.61-0.82 to 0.66-0.87, and questions that share a template from 0.51-0.76 to
    0.50-0.74 (all-MiniLM-L6-v2). Those of a template that come close are told apart by
    `are_about_different_things`.
    """

    name = "duplicates"

    def __init__(self, embedder: Embedder, *, similarity_threshold: float) -> None:
        """Pairs with a higher cosine are duplicates."""
        self._embedder = embedder
        self._threshold = similarity_threshold
        self._known: list[KnownText] = []
        self._vectors = numpy.zeros((0, 0), dtype=numpy.float32)
        """Of the known ones in order, with room for more behind."""
        self._prepared: dict[str, numpy.ndarray] = {}

    async def prepare(self, candidate: DraftCandidate) -> None:
        """Ask for its vector. Raises the errors of the embedding model."""
        await self.prepare_text(KnownText.of(candidate))

    async def prepare_text(self, text: KnownText) -> None:
        """The same for a question that is no draft, as all with this ending."""
        embedded = _embedded(text)
        self._prepared[embedded] = await self._embedder.vector(embedded)

    def find(self, candidate: DraftCandidate) -> GateRejection | None:
        """The nearest repetition; `prepare` must have been awaited."""
        reason = self.find_text(KnownText.of(candidate))
        return None if reason is None else GateRejection(gate=self.name, reason=reason)

    def find_text(self, text: KnownText) -> str | None:
        """What it repeats, in words."""
        if not self._known:
            return None
        vector = self._prepared[_embedded(text)]
        cosines = self._vectors[: len(self._known)] @ vector
        near = numpy.flatnonzero(cosines > self._threshold)
        for number in near[numpy.argsort(-cosines[near], kind="stable")]:
            if not are_about_different_things(text, self._known[number]):
                self._prepared.pop(_embedded(text))
                return f"it means the same (cosine {cosines[number]:.2f}) as {self._known[number]}"
        return None

    def add(self, candidate: DraftCandidate) -> None:
        self.add_text(KnownText.of(candidate))

    def add_text(self, text: KnownText) -> None:
        """`prepare_text` must have been awaited."""
        self._add(text, self._prepared.pop(_embedded(text)))

    async def add_known(self, texts: Sequence[KnownText]) -> None:
        """Seeds and questions of other sets, which are not judged themselves."""
        vectors = await asyncio.gather(*(self._embedder.vector(_embedded(text)) for text in texts))
        for text, vector in zip(texts, vectors, strict=True):
            self._add(text, vector)

    def _add(self, text: KnownText, vector: numpy.ndarray) -> None:
        count = len(self._known)
        if count == len(self._vectors):
            roomy = numpy.zeros((max(1024, 2 * count), len(vector)), dtype=numpy.float32)
            if count:
                roomy[:count] = self._vectors
            self._vectors = roomy
        self._vectors[count] = vector
        self._known.append(text)


def _embedded(text: KnownText) -> str:
    return f"{text.question}\n{text.answer}".rstrip()
