"""Leaves out turns that ask nearly what another one asks, by words and where wanted by meaning."""

from collections.abc import Iterable
from dataclasses import dataclass

from astuner.task_generation.gates.duplicates.known_text import KnownText
from astuner.task_generation.gates.duplicates.semantic_duplicates import SemanticDuplicates
from astuner.task_generation.gates.duplicates.text_duplicates import TextDuplicates
from astuner.trace_tasks.candidate import Candidate
from astuner.trace_tasks.step import Candidates, StepCount
from astuner.trace_tasks.turn_ids import task_id_of

_NUM_ASKED = 3
"""Of a user's messages, the question and what leads up to it: "yes, please" alone asks nothing."""


@dataclass(frozen=True, slots=True)
class Deduplication:
    """The first of those that are alike is kept. Tasks that are there already come before all."""

    by_words: TextDuplicates
    by_meaning: SemanticDuplicates | None
    known_ids: frozenset[str]
    """Of tasks that are there already, which have been added to both."""

    async def __call__(self, candidates: Candidates, count: StepCount) -> Candidates:
        async for candidate in candidates:
            count.num_in += 1
            if task_id_of(candidate) not in self.known_ids:
                reason = await self._repeats(compared_text(candidate))
                if reason is not None:
                    count.drop(reason)
                    continue
            count.num_out += 1
            yield candidate

    async def _repeats(self, text: KnownText) -> str | None:
        """Why it is left out; else it is remembered."""
        if self.by_words.find_text(text) is not None:
            return "nearly the words of another one"
        if self.by_meaning is not None:
            await self.by_meaning.prepare_text(text)
            if self.by_meaning.find_text(text) is not None:
                return "the meaning of another one"
            self.by_meaning.add_text(text)
        self.by_words.add_text(text)
        return None


def compared_text(candidate: Candidate) -> KnownText:
    steps = candidate.trace.steps[: candidate.asked_at + 1]
    return text_of_asked(
        (step.text for step in steps if step.role == "user"), candidate.reference or ""
    )


def text_of_asked(asked: Iterable[str], answer: str) -> KnownText:
    """What is compared: a user's last messages, the question behind them, and its answer."""
    return KnownText(question="\n".join([*asked][-_NUM_ASKED:]), answer=answer, place="")
