"""In which order the training tasks are used: shuffled anew in every epoch, and resumable."""

import random
from collections.abc import Mapping
from typing import Self

from astuner.errors import ConfigError


class TaskOrder:
    """Batches of task indices, without end. The training loop owns it and saves its state.

    Epoch `e` visits the tasks as `random.Random(seed + e)` shuffles them. A batch never spans two
    epochs: the last `num_tasks % batch_size` tasks of an epoch's order are left out of that epoch
    (other tasks in every epoch, for the order differs).
    """

    def __init__(self, num_tasks: int, *, batch_size: int, seed: int) -> None:
        """Raises ConfigError when there are fewer tasks than one batch needs."""
        if not 1 <= batch_size <= num_tasks:
            raise ConfigError(
                f"data.train_batch_size is {batch_size}, but there are {num_tasks} training "
                f"tasks; set it to between 1 and {num_tasks}, or give more tasks"
            )
        self._num_tasks = num_tasks
        self._batch_size = batch_size
        self._seed = seed
        self._start_epoch(0)

    @classmethod
    def from_state(cls, state: Mapping[str, int], num_tasks: int, *, batch_size: int) -> Self:
        """Go on exactly where `state` was taken, with its seed.

        Another batch size is fine: the order of the tasks stays.
        Raises ConfigError when the number of tasks is another one, or the state is not complete.
        """
        missing = {"num_tasks", "seed", "epoch", "position"} - set(state)
        if missing:
            raise ConfigError(
                f"cannot resume the order of the tasks: the checkpoint lacks {sorted(missing)}, "
                f"found {dict(state)}; start a new run from its weights"
            )
        if state["num_tasks"] != num_tasks:
            raise ConfigError(
                f"cannot resume the order of the tasks: the checkpoint was saved with "
                f"{state['num_tasks']} training tasks, now there are {num_tasks}; resume with the "
                "same data, or start a new run from the checkpoint's weights"
            )
        order = cls(num_tasks, batch_size=batch_size, seed=state["seed"])
        order._start_epoch(state["epoch"])
        order._position = state["position"]
        return order

    @property
    def batches_per_epoch(self) -> int:
        return self._num_tasks // self._batch_size

    @property
    def epoch(self) -> int:
        """Of the batch that `next_batch` last gave; counts from 0."""
        return self._epoch

    def next_batch(self, count: int | None = None) -> list[int]:
        """Indices of the next `count` tasks, by default `batch_size`, all different."""
        count = self._batch_size if count is None else count
        if self._position + count > self._num_tasks:
            self._start_epoch(self._epoch + 1)
        start, self._position = self._position, self._position + count
        return self._indices[start : self._position]

    def state(self) -> dict[str, int]:
        """What `from_state` needs, as JSON."""
        return {
            "num_tasks": self._num_tasks,
            "seed": self._seed,
            "epoch": self._epoch,
            "position": self._position,
        }

    def _start_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._position = 0
        self._indices = list(range(self._num_tasks))
        random.Random(self._seed + epoch).shuffle(self._indices)
