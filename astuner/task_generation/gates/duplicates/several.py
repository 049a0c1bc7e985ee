"""Several ways to find duplicates as one."""

from collections.abc import Sequence
from typing import Protocol

from astuner.task_generation.draft import DraftCandidate, GateRejection
from astuner.task_generation.gates.duplicates.known_text import KnownText
from astuner.task_generation.gates.gate import DuplicateFilter


class ExtendableFilter(DuplicateFilter, Protocol):
    async def add_known(self, texts: Sequence[KnownText]) -> None:
        """Seeds and questions of other sets, which are not judged themselves."""
        ...


class SeveralFilters:
    """Asks each in order; the first repetition counts."""

    name = "duplicates"

    def __init__(self, filters: Sequence[ExtendableFilter]) -> None:
        """Cheap ones first."""
        self._filters = filters

    async def prepare(self, candidate: DraftCandidate) -> None:
        for one in self._filters:
            await one.prepare(candidate)

    def find(self, candidate: DraftCandidate) -> GateRejection | None:
        found = (one.find(candidate) for one in self._filters)
        return next((rejection for rejection in found if rejection is not None), None)

    def add(self, candidate: DraftCandidate) -> None:
        for one in self._filters:
            one.add(candidate)

    async def add_known(self, texts: Sequence[KnownText]) -> None:
        for one in self._filters:
            await one.add_known(texts)
