"""A task that an earlier making wrote, as the steps of this one see it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from astuner.task_generation.draft import Side


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTask:
    """What others are compared with. The whole stays in its file."""

    task_id: str
    side: Side
    asked: Sequence[str]
    """What the user said, the question last."""
    answer: str
    """Its reference; empty where there is none."""
    intent: str | None

    @property
    def question(self) -> str:
        return self.asked[-1]

    @classmethod
    def of(cls, row: Mapping[str, Any], side: Side) -> Self:
        """From a line of a file of tasks."""
        before = [one["content"] for one in row["init_messages"] if one["role"] == "user"]
        metadata = row["metadata"]
        return cls(
            task_id=row["task_id"],
            side=side,
            asked=(*before, row["main_query"]),
            answer=metadata.get("answer") or "",
            intent=metadata.get("intent"),
        )
