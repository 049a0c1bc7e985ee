"""Failed episodes by what they failed of."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class FailedRow(Protocol):
    """An episode that has no verdict."""

    @property
    def step(self) -> int: ...
    @property
    def is_validation(self) -> bool: ...
    @property
    def episode_id(self) -> str: ...
    @property
    def failure(self) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCause:
    """The episodes that failed with one message."""

    message: str
    """The kind of error and the first line of what it said."""
    num_episodes: int
    first_step: int
    last_step: int
    example_id: str
    """The newest of them."""
    by_step: tuple[tuple[int, int], ...]
    """Steps of training with how many of their episodes failed so."""

    @property
    def kind(self) -> str:
        return self.message.partition(":")[0]


def failure_causes(rows: Iterable[FailedRow]) -> list[FailureCause]:
    """The commonest first."""
    by_message: dict[str, list[FailedRow]] = {}
    for row in rows:
        by_message.setdefault(row.failure or "not known", []).append(row)
    causes = [_cause(message, failed) for message, failed in by_message.items()]
    return sorted(causes, key=lambda cause: (-cause.num_episodes, cause.message))


def _cause(message: str, rows: list[FailedRow]) -> FailureCause:
    counts = Counter(row.step for row in rows if not row.is_validation)
    return FailureCause(
        message=message,
        num_episodes=len(rows),
        first_step=min(row.step for row in rows),
        last_step=max(row.step for row in rows),
        example_id=max(rows, key=lambda row: row.step).episode_id,
        by_step=tuple(sorted(counts.items())),
    )
