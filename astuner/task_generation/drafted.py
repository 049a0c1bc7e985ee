"""What became of one turn, and the way of its draft through the gates that look at it alone."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from astuner.errors import LlmBudgetError, LlmError
from astuner.llm import LlmUsage, usage_tallied
from astuner.task_generation.draft import DraftCandidate, DraftTurn, GateRejection, TaskDraft
from astuner.task_generation.request import GenerationParts
from astuner.task_generation.spending import Spending, added

FORM_GATE = "form"
"""What drafting itself is called among the gates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftedTurn:
    """A turn up to where drafts are compared with each other."""

    turn: DraftTurn
    draft: TaskDraft | None
    """None where none could be read, or there was no answer. As it may be written down."""
    notes: Mapping[str, Any]
    rejection: GateRejection | None
    failure: str | None
    """Why a question about it got no answer."""

    @property
    def candidate(self) -> DraftCandidate | None:
        """What passed; None where something stopped it."""
        if self.draft is None or self.rejection or self.failure:
            return None
        return DraftCandidate(turn=self.turn, draft=self.draft, notes=self.notes)


class Halted(Exception):
    """A draft is left as it is, since nothing more is to be spent; its answers are kept."""


@dataclass(slots=True)
class DraftWork:
    """One turn on its way; changed by those who make it only."""

    turn: DraftTurn
    usage: dict[str, LlmUsage] = field(default_factory=dict)
    """By gate, so far."""
    drafted: DraftedTurn | None = None
    """Once it is made."""


class DraftMaker:
    """Makes drafts, each alone; many at the same time."""

    def __init__(
        self, parts: GenerationParts, *, spending: Spending, is_halted: Callable[[], bool]
    ) -> None:
        self._parts = parts
        self._spending = spending
        self._is_halted = is_halted

    async def make(self, work: DraftWork) -> DraftedTurn:
        """Draft and ask the gates. Raises Halted where the money is used up in between, and what no
        further question could mend."""
        candidate: DraftCandidate | None = None
        rejection: GateRejection | None = None
        failure: str | None = None
        try:
            found = await self._draft(work)
            if isinstance(found, DraftCandidate):
                candidate = found
                candidate, rejection = await self._checked(work, candidate)
                if rejection is None:
                    with self._counted(work, self._parts.duplicates.name):
                        await self._parts.duplicates.prepare(candidate)
            else:
                rejection = found
        except LlmError as error:
            failure = str(error)
        drafted = DraftedTurn(
            turn=work.turn,
            draft=candidate and candidate.draft,
            notes=candidate.notes if candidate else {},
            rejection=rejection,
            failure=failure,
        )
        return drafted if drafted.candidate else self._redacted(drafted)

    async def _draft(self, work: DraftWork) -> DraftCandidate | GateRejection:
        with self._counted(work, FORM_GATE):
            drafted = await self._parts.drafter.draft(work.turn)
        if isinstance(drafted, GateRejection):
            return drafted
        return DraftCandidate(turn=work.turn, draft=drafted)

    async def _checked(
        self, work: DraftWork, candidate: DraftCandidate
    ) -> tuple[DraftCandidate, GateRejection | None]:
        """The candidate as the last gate that it met left it, and that gate's rejection."""
        for gate in self._parts.gates:
            with self._counted(work, gate.name):
                checked = await gate.check(candidate)
            if isinstance(checked, GateRejection):
                return candidate, checked
            candidate = checked
        return candidate, None

    def _redacted(self, drafted: DraftedTurn) -> DraftedTurn:
        """It may not have come to the gate that looks for what nobody else should read."""
        redact = self._parts.redact
        draft, rejection = drafted.draft, drafted.rejection
        if draft is not None:
            draft = replace(
                draft,
                question=redact(draft.question),
                answer=redact(draft.answer),
                evidence=redact(draft.evidence),
            )
        if rejection is not None:
            rejection = replace(rejection, reason=redact(rejection.reason))
        failure = drafted.failure and redact(drafted.failure)
        return replace(drafted, draft=draft, rejection=rejection, failure=failure)

    @contextmanager
    def _counted(self, work: DraftWork, gate: str) -> Iterator[None]:
        if self._is_halted() or self._spending.limit_reached():
            raise Halted
        with usage_tallied() as tally:
            try:
                yield
            except LlmBudgetError as error:
                self._spending.end(str(error))
                raise Halted from error
            finally:
                work.usage[gate] = added(work.usage.get(gate, LlmUsage()), tally.usage)
