"""Our tasks as the dataset that verl deals into batches."""

# verl is installed in a virtual environment of its own:
# pyright: reportMissingImports=false

from collections.abc import Mapping, Sequence
from typing import Any

import ray
from torch.utils.data import Dataset

from astuner.backbone.cluster.remote import find_hub
from astuner.backbone.verl.config import NUM_BATCHES
from astuner.task_reader.laid_out import LaidOutOrder
from astuner.task_reader.order import TaskOrder
from astuner.task_reader.sources import shares_of
from astuner.types import Task

TRAINING, VALIDATION = "train", "validation"
"""What stands in data.train_files and data.val_files: the hub's names of the splits."""


class TaskDataset(Dataset[dict[str, Any]]):
    """The tasks of one split. Prompts are made by workflows, so rows hold the task alone."""

    def __init__(
        self,
        data_files: str,
        tokenizer: Any = None,
        processor: Any = None,
        config: Any = None,
        max_samples: int = -1,
    ) -> None:
        """The signature is verl's; `data_files` is the name of a split."""
        self._is_validation = data_files == VALIDATION
        self._hub = find_hub()
        tasks = ray.get(self._hub.tasks.remote(data_files))
        self._tasks: list[Task] = list(tasks[:max_samples] if max_samples > 0 else tasks)
        self._places: range | LaidOutOrder = range(len(self._tasks))
        self.is_dealt = False
        """Whether the hub chooses the tasks, whatever their places."""
        self.step = 0
        """That the next rows are for; the trainer tells it."""
        if not self._is_validation and config.get(NUM_BATCHES):
            settings = ray.get(self._hub.worker_run.remote()).settings
            self.is_dealt = settings.trainer_common.curriculum.enabled
            self._places = _laid_out(self._tasks, shares_of(settings.task_reader), config)

    def __len__(self) -> int:
        return len(self._places)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """What torch's loader asks for a batch. With a curriculum it is dealt now, by the hub,
        whatever the indices are."""
        if self.is_dealt:
            places = ray.get(self._hub.deal.remote(self.step, len(indices)))
        else:
            places = [self._places[index] for index in indices]
        return [self._row(self._tasks[p], i) for p, i in zip(places, indices, strict=True)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def _row(self, task: Task, index: int) -> dict[str, Any]:
        return {
            "raw_prompt": [{"role": "user", "content": task.main_query}],
            "task": task.model_dump_json(),
            "is_validation": self._is_validation,
            "index": index,
            "data_source": "astuner",
            "reward_model": {"ground_truth": ""},
        }


def _laid_out(tasks: Sequence[Task], shares: Mapping[str, float], config: Any) -> LaidOutOrder:
    size = config.train_batch_size
    order = TaskOrder.of_tasks(tasks, shares, batch_size=size, seed=config.seed)
    return LaidOutOrder(order, batch_size=size, num_batches=config[NUM_BATCHES])
