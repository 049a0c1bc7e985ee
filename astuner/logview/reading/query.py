"""Which episodes are asked for, in which order, and that as SQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from astuner.logview.reading.row import ROW_COLUMNS, EpisodeRow, from_values

Outcome = Literal["solved", "unsolved", "failed"]
Order = Literal[
    "step", "newest", "lowest_reward", "highest_reward", "longest", "shortest", "slowest"
]
"""By step, and in it by task and attempt; the others fall back on that where two are equal. The
length is that in sampled tokens."""

_PLACE = ("e.step", "e.is_validation", "e.task_id", "e.attempt", "e.file_id", "e.offset")
_KEYS: dict[str, tuple[str, ...]] = {
    "step": (),
    "newest": ("-e.step", "-e.is_validation"),
    "lowest_reward": ("e.reward IS NULL", "coalesce(e.reward, 0)"),
    "highest_reward": ("e.reward IS NULL", "-coalesce(e.reward, 0)"),
    "longest": ("-e.num_sampled_tokens",),
    "shortest": ("e.num_sampled_tokens",),
    "slowest": ("-coalesce(e.seconds, 0)",),
}
ORDERS: tuple[str, ...] = tuple(_KEYS)

SELECT_ROWS = (
    f"SELECT {', '.join(f'e.{name}' for name in ROW_COLUMNS)}, f.name "
    "FROM episodes e JOIN files f ON f.id = e.file_id"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeQuery:
    """What an episode must be to be shown; None asks for nothing."""

    step: int | None = None
    is_validation: bool | None = None
    task_id: str | None = None
    min_reward: float | None = None
    max_reward: float | None = None
    outcome: Outcome | None = None
    """`unsolved` was judged to be no success; `failed` was not judged."""
    agent: str | None = None
    tool: str | None = None
    """Called by an agent of it."""
    madness: bool | None = None
    min_tokens: int | None = None
    """Sampled, as are `max_tokens`."""
    max_tokens: int | None = None
    problem: bool | None = None
    """Whether its record cannot be read."""
    order: Order = "step"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A condition on the episodes `e`, with the values of its question marks."""

    sql: str
    values: tuple[Any, ...]

    def behind(
        self, keys: Sequence[str], place: Sequence[Any], *, is_before: bool = False
    ) -> "Filter":
        """Only those behind a place in the order of `keys`, or before it."""
        sign = "<" if is_before else ">"
        marks = ", ".join("?" for _ in keys)
        return Filter(
            sql=f"{self.sql} AND ({', '.join(keys)}) {sign} ({marks})",
            values=(*self.values, *place),
        )


def filter_of(query: EpisodeQuery) -> Filter:
    """The condition that a query asks for."""
    asked: list[tuple[str, Any]] = [
        ("e.step = ?", query.step),
        ("e.is_validation = ?", query.is_validation),
        ("e.task_id = ?", query.task_id),
        ("e.reward >= ?", query.min_reward),
        ("e.reward <= ?", query.max_reward),
        (_HOLDS.format("agents"), query.agent),
        (_HOLDS.format("tools"), query.tool),
        ("(e.madness IS NOT NULL) = ?", query.madness),
        ("e.num_sampled_tokens >= ?", query.min_tokens),
        ("e.num_sampled_tokens <= ?", query.max_tokens),
        ("(e.problem IS NOT NULL) = ?", query.problem),
    ]
    conditions = [(sql, value) for sql, value in asked if value is not None]
    outcome = [] if query.outcome is None else [_OUTCOMES[query.outcome]]
    return Filter(
        sql=" AND ".join(["1", *outcome, *(sql for sql, _ in conditions)]),
        values=tuple(value for _, value in conditions),
    )


_HOLDS = "instr(e.{}, char(31) || ? || char(31))"
"""With the SEPARATOR of names around one."""
_OUTCOMES: dict[str, str] = {
    "solved": "e.is_success = 1",
    "unsolved": "e.is_success = 0",
    "failed": "e.failure IS NOT NULL",
}


def keys_of(order: Order) -> tuple[str, ...]:
    """The expressions that put episodes in order, ascending; together they are unique."""
    return (*_KEYS[order], *_PLACE)


def rows_from(found: list[tuple[Any, ...]]) -> list[EpisodeRow]:
    """What `SELECT_ROWS` gave, as rows."""
    return [from_values(values[:-1], values[-1]) for values in found]
