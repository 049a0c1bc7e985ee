"""The episodes of one task in one step side by side, and how tasks changed over the steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from astuner.logview.reading.cache import IndexCache
from astuner.logview.reading.query import SELECT_ROWS, rows_from
from astuner.logview.reading.row import EpisodeRow


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """The episodes of one task in one step, by attempt."""

    step: int
    is_validation: bool
    task_id: str
    title: str
    """The beginning of the question."""
    episode_ids: tuple[str, ...]
    rewards: tuple[float | None, ...]
    """One for each of them; None where it has none."""
    successes: tuple[bool | None, ...]
    """Likewise."""
    mean: float | None
    """Of the rewards that are known; None where none is."""
    spread: float | None
    """Standard deviation of these, 0 where all are equal; None where none is known."""
    num_failed: int
    tokens_mean: float
    """Sampled tokens."""

    @property
    def num_episodes(self) -> int:
        return len(self.episode_ids)

    @property
    def num_solved(self) -> int:
        return sum(success is True for success in self.successes)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChange:
    """One task the first and the last time that it was tried in the same way."""

    task_id: str
    title: str
    is_validation: bool
    first: GroupRow
    last: GroupRow
    change: float
    """Mean reward of the last less that of the first."""


_READABLE = "e.problem IS NULL"
_BY_PLACE = "ORDER BY e.step, e.is_validation, e.task_id, e.attempt, e.file_id, e.offset"
_MEAN = (
    "(SELECT avg(e.reward) FROM episodes e WHERE e.task_id = ends.task_id "
    "AND e.is_validation = ends.is_validation AND e.problem IS NULL AND e.step = {})"
)
_ENDS = f"""
WITH ends AS (
    SELECT task_id, is_validation, min(step) AS first_step, max(step) AS last_step FROM episodes
    WHERE problem IS NULL AND reward IS NOT NULL
    GROUP BY task_id, is_validation HAVING min(step) < max(step)
)
SELECT task_id, is_validation, first_step, last_step,
    coalesce({_MEAN.format("last_step")} - {_MEAN.format("first_step")}, 0)
FROM ends ORDER BY task_id, is_validation
"""
"""SQLite has NULL for what is no number, such as infinity less infinity."""


def groups_of_step(cache: IndexCache, step: int, is_validation: bool) -> list[GroupRow]:
    """Every group of a step, by task id."""
    condition = "e.step = ? AND e.is_validation = ?"
    return _groups(cache, condition, (step, is_validation))


def groups_of_task(cache: IndexCache, task_id: str) -> list[GroupRow]:
    """The group of a task in each step that tried it, the earliest first."""
    return _groups(cache, "e.task_id = ?", (task_id,))


def changed_tasks(cache: IndexCache, *, limit: int, least: int = 0) -> list[TaskChange]:
    """The tasks whose mean reward changed most, either way, and behind them the `least` changed.

    Validations go before training.

    A task that was tried in one step only, or never with a reward, has no change.
    """
    # Validations come last of a task, and take its place.
    ends = {
        task_id: (bool(is_validation), first_step, last_step, change)
        for task_id, is_validation, first_step, last_step, change in cache.read(_ENDS)
    }
    largest = sorted(ends.items(), key=lambda end: (-abs(end[1][3]), end[0]))
    rest = largest[limit:]
    chosen = largest[:limit] + rest[max(0, len(rest) - least) :]
    return [
        TaskChange(
            task_id=task_id,
            title=last.title,
            is_validation=is_validation,
            first=first,
            last=last,
            change=change,
        )
        for task_id, (is_validation, first_step, last_step, change) in chosen
        for first in _group_at(cache, task_id, is_validation, first_step)
        for last in _group_at(cache, task_id, is_validation, last_step)
    ]


def _group_at(cache: IndexCache, task_id: str, is_validation: bool, step: int) -> list[GroupRow]:
    condition = "e.task_id = ? AND e.is_validation = ? AND e.step = ?"
    return _groups(cache, condition, (task_id, is_validation, step))


def _groups(cache: IndexCache, condition: str, values: tuple[object, ...]) -> list[GroupRow]:
    sql = f"{SELECT_ROWS} WHERE {_READABLE} AND {condition} {_BY_PLACE}"
    rows = rows_from(cache.read(sql, values))
    by_group = groupby(rows, key=lambda row: (row.step, row.is_validation, row.task_id))
    return [_group(list(members)) for _, members in by_group]


def _group(rows: list[EpisodeRow]) -> GroupRow:
    rewards = [row.reward for row in rows if row.reward is not None]
    return GroupRow(
        step=rows[0].step,
        is_validation=rows[0].is_validation,
        task_id=rows[0].task_id,
        title=rows[0].title,
        episode_ids=tuple(row.episode_id for row in rows),
        rewards=tuple(row.reward for row in rows),
        successes=tuple(row.is_success for row in rows),
        mean=fmean(rewards) if rewards else None,
        spread=_spread(rewards) if rewards else None,
        num_failed=sum(row.failure is not None for row in rows),
        tokens_mean=fmean(row.num_sampled_tokens for row in rows),
    )


def _spread(values: Sequence[float]) -> float:
    """`statistics.pstdev` takes twenty times as long: it computes with fractions."""
    if min(values) == max(values):
        return 0.0
    return math.dist(values, [fmean(values)] * len(values)) / math.sqrt(len(values))
