"""Tasks without content, for workflows that bring their own environment or questions."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from astuner.errors import ConfigError
from astuner.types import Task

_ORDER_SEED = 42


class RandomDummyReader:
    """Reads `task_reader.type: random_dummy`: always the same tasks, in the same mixed order.

    Training and validation get equal lists, a test the numbers behind them.
    """

    def __init__(self, *, num_tasks: int = 1000, num_test_tasks: int = 0) -> None:
        if num_tasks < 1:
            raise ConfigError(
                f"task_reader.random_dummy.num_tasks is {num_tasks}; at least 1 is needed"
            )
        self._num_tasks, self._num_test_tasks = num_tasks, num_test_tasks

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], search_dirs: Sequence[Path]) -> Self:
        del search_dirs  # nothing is read from disk
        return cls(**settings)

    def get_training_tasks(self) -> list[Task]:
        return self._tasks(range(self._num_tasks))

    def get_validation_tasks(self) -> list[Task]:
        return self._tasks(range(self._num_tasks))

    def get_test_tasks(self) -> list[Task]:
        return self._tasks(range(self._num_tasks, self._num_tasks + self._num_test_tasks))

    def _tasks(self, of: range) -> list[Task]:
        numbers = list(of)
        random.Random(_ORDER_SEED).shuffle(numbers)
        return [
            Task(
                main_query=f"[dummy task @ {number}]",
                task_id=str(number),
                metadata={"random_number": number},
            )
            for number in numbers
        ]
