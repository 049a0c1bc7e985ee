"""Our tasks as the dataset that verl deals into batches."""

# verl is installed in a virtual environment of its own:
# pyright: reportMissingImports=false

from typing import Any

import ray
from torch.utils.data import Dataset

from astuner.backbone.cluster.remote import find_hub
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
        tasks = ray.get(find_hub().tasks.remote(data_files))
        self._tasks: list[Task] = list(tasks[:max_samples] if max_samples > 0 else tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        task = self._tasks[index]
        return {
            "raw_prompt": [{"role": "user", "content": task.main_query}],
            "task": task.model_dump_json(),
            "is_validation": self._is_validation,
            "index": index,
            "data_source": "astuner",
            "reward_model": {"ground_truth": ""},
        }
