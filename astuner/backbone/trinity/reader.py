"""Our tasks as the task sets that Trinity's explorer reads."""

# Trinity-RFT and Ray are installed in a virtual environment of their own:
# pyright: reportMissingImports=false

from collections.abc import Sequence
from typing import Any

from trinity.buffer.buffer_reader import BufferReader
from trinity.buffer.schema import FORMATTER
from trinity.common.config import StorageConfig
from trinity.common.workflows.workflow import Task as TrinityTask

from astuner.backbone.cluster.remote import find_hub
from astuner.config.schema import Settings
from astuner.task_reader.order import TaskOrder
from astuner.task_reader.sources import shares_of
from astuner.types import Task

TRAINING, VALIDATION = "train", "validation"
"""What stands in the path of a task set: the hub's names of the splits."""


class TaskSet(BufferReader):
    """The tasks of one split: those of training in the same order as on `local`.

    With a curriculum the hub deals them. With each batch begins the phase in which it is rolled
    out.
    """

    def __init__(self, config: StorageConfig) -> None:
        self._config = config
        self._formatter = FORMATTER.get("task")(config)
        self._hub = find_hub()
        self._num_batches = config.index
        self._order: TaskOrder | None = None

    async def read(self, batch_size: int | None = None, **_options: Any) -> list[TrinityTask]:
        """Raises StopAsyncIteration behind the last batch; a validation is one batch."""
        tasks = await self._hub.tasks.remote(self._config.path)
        if self._config.is_eval:
            chosen = self._next_validation(tasks)
        else:
            chosen = await self._next_batch(tasks)
        return [self._formatter.format(task.model_dump()) for task in chosen]

    def _next_validation(self, tasks: Sequence[Task]) -> Sequence[Task]:
        if self._num_batches:
            raise StopAsyncIteration
        self._num_batches = 1
        return tasks

    async def _next_batch(self, tasks: Sequence[Task]) -> Sequence[Task]:
        if self._num_batches == self._config.total_steps:
            raise StopAsyncIteration
        settings = (await self._hub.worker_run.remote()).settings
        if settings.trainer_common.curriculum.enabled:
            step, size = self._num_batches + 1, self._config.batch_size
            indices = await self._hub.deal.remote(step, size)
        else:
            self._order = self._order or self._find_place(settings, tasks)
            indices = self._order.next_batch()
        self._num_batches += 1
        chosen = [tasks[index] for index in indices]
        total = len(chosen) * (self._config.repeat_times or 1)
        await self._hub.enter.remote("rollout", step=self._num_batches, total=total)
        return chosen

    def _find_place(self, settings: Settings, tasks: Sequence[Task]) -> TaskOrder:
        """The order of the run, behind the batches that were read before it was resumed."""
        order = TaskOrder.of_tasks(
            tasks,
            shares_of(settings.task_reader),
            batch_size=self._config.batch_size,
            seed=settings.trainer_common.seed,
        )
        for _ in range(self._num_batches):
            order.next_batch()
        return order

    def state_dict(self) -> dict[str, int]:
        return {"current_index": self._num_batches}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._num_batches, self._order = state_dict["current_index"], None
