"""How often the model to be tuned solves a task; measured elsewhere, by rollouts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from astuner.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRate:
    """Of one task."""

    num_solved: int
    num_judged: int
    """Attempts with a verdict; failed ones are left out, and never count as unsolved."""

    @property
    def value(self) -> float | None:
        """Between 0 and 1; None where no attempt has a verdict."""
        return self.num_solved / self.num_judged if self.num_judged else None


class PassRateMeter(Protocol):
    async def measure(self, tasks: Sequence[Task]) -> Sequence[PassRate]:
        """In the order of the tasks."""
        ...
