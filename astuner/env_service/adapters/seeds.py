"""Worlds whose tasks are nothing but a seed: splits of such tasks, which share none."""

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any

from astuner.env_service.environment import Environment

_FIRST_SEED = {"train": 0, "dev": 1_000_000, "validation": 1_000_000, "test": 2_000_000}
_MOST = 1_000_000
"""Of a split, so that no two share a seed."""


def split_seeds(split: str, *, num_tasks: int, num_validation_tasks: int) -> list[str]:
    """The task ids of a split: train, dev (or validation) or test.

    Raises ValueError for another one, and for a number of tasks that cannot be had.
    """
    if split not in _FIRST_SEED:
        raise ValueError(f"there is no split {split!r}; there are {', '.join(_FIRST_SEED)}")
    wanted = num_tasks if split == "train" else num_validation_tasks
    if not 1 <= wanted <= _MOST:
        raise ValueError(f"a split has 1 to {_MOST} tasks; asked of {split!r} were {wanted}")
    first = _FIRST_SEED[split]
    return [str(seed) for seed in range(first, first + wanted)]


def task_seed(options: Mapping[str, Any] | None, *, seed: int | None) -> int:
    """The seed that a task is; without a task, the seed of the episode, or 0.

    Raises LookupError for a task id that is no seed.
    """
    task_id = (options or {}).get("task_id")
    if task_id is None:
        return seed or 0
    text = str(task_id)
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise LookupError(f"there is no task {text[:80]!r}; tasks are numbers, such as '17'")
    return int(text)


class SeededWorld(Environment, ABC):
    """What such worlds share. Options of a split are the server's, as those of the world are."""

    @classmethod
    def prepare(cls, **options: Any) -> None:
        """Import what instances need, and refuse wrong options before there is one."""
        cls(**options).close()

    @classmethod
    def task_ids(
        cls,
        split: str,
        *,
        num_tasks: int = 1000,
        num_validation_tasks: int = 100,
        **options: Any,
    ) -> Sequence[str]:
        del options
        return split_seeds(split, num_tasks=num_tasks, num_validation_tasks=num_validation_tasks)
