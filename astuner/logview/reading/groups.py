"""The episodes of one task in one step side by side, and how tasks changed over the steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean, pstdev

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
_MEANS = """
SELECT task_id, is_validation, step, avg(reward) FROM episodes
WHERE problem IS NULL GROUP BY task_id, is_validation, step HAVING avg(reward) IS NOT NULL
ORDER BY task_id, is_validation, step
"""


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
    ends: dict[str, tuple[bool, int, int, float]] = {}
    for (task_id, is_validation), means in groupby(
        cache.read(_MEANS), key=lambda mean: (mean[0], bool(mean[1]))
    ):
        steps = list(means)
        if len(steps) > 1:  # validations come last of a task, and take its place
            change = steps[-1][3] - steps[0][3]
            ends[task_id] = (is_validation, steps[0][2], steps[-1][2], change)
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
        mean=_of_known(fmean, rewards),
        spread=_of_known(pstdev, rewards),
        num_failed=sum(row.failure is not None for row in rows),
        tokens_mean=fmean(row.num_sampled_tokens for row in rows),
    )


def _of_known(
    statistic: Callable[[Sequence[float]], float], values: Sequence[float]
) -> float | None:
    return statistic(values) if values else None
