"""What every step does: it takes candidates as they come, and gives those that are kept."""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from astuner.trace_tasks.candidate import Candidate

Candidates = AsyncGenerator[Candidate, None]


@dataclass(slots=True, kw_only=True)
class StepCount:
    """What became of the candidates of one step."""

    name: str
    num_in: int = 0
    num_out: int = 0
    """Of a cut it may be more than came in."""
    dropped: Counter[str] = field(default_factory=Counter)
    """By reason. Reasons quote nothing of a trace."""
    notes: Counter[str] = field(default_factory=Counter)
    """What else is worth to be known, such as how many have which reference."""

    def drop(self, reason: str) -> None:
        self.dropped[reason] += 1

    @property
    def num_dropped(self) -> int:
        return self.dropped.total()


class TraceStep(Protocol):
    def __call__(self, candidates: Candidates, count: StepCount) -> Candidates:
        """Those that are kept, in the order they came in; counts what comes in, goes out and is
        dropped. Holds no more candidates than it works on at a time."""
        ...


@dataclass(frozen=True, slots=True)
class TurnDropped:
    """Why a candidate is not kept."""

    reason: str


Look = Callable[[Candidate], "Sequence[Candidate] | TurnDropped"]


@dataclass(frozen=True, slots=True)
class EachStep:
    """A step that looks at one candidate after the other."""

    look: Look

    async def __call__(self, candidates: Candidates, count: StepCount) -> Candidates:
        async for candidate in candidates:
            count.num_in += 1
            found = self.look(candidate)
            if isinstance(found, TurnDropped):
                count.drop(found.reason)
                continue
            for one in found:
                count.num_out += 1
                yield one
