"""Tasks that were made from traces; `trace_tasks` makes such files.

The training tasks are the file that the settings name. Those of validation and test lie beside it:
`tasks.jsonl`, `tasks.validation.jsonl`, `tasks.test.jsonl`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from astuner.errors import ConfigError
from astuner.task_reader.jsonl_dataset_file import read_task_file
from astuner.types import Task

_KEY = "task_reader.feedback_tracing.train_output_path"
_COMMAND = "start the run by `astuner --conf FILE`, which makes them from base_url"


def file_beside(training_file: Path, name: Literal["validation", "test", "manifest"]) -> Path:
    """The file of the same tasks that holds another side of them, or how they were made."""
    suffix = ".json" if name == "manifest" else ".jsonl"
    return training_file.with_name(f"{training_file.name.removesuffix('.jsonl')}.{name}{suffix}")


class TracedTasksReader:
    """Reads `task_reader.type: tracing`; the tasks have been made by then."""

    def __init__(self, training_file: Path) -> None:
        """Absolute."""
        self._training_file = training_file

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], search_dirs: Sequence[Path]) -> Self:
        del search_dirs  # where it lies does not depend on what else is there
        path = settings.get("train_output_path")
        if path is None:
            raise ConfigError(
                f"{_KEY} is not set, so there is no file to read tasks from; {_COMMAND} and finds "
                "them by the name of the YAML"
            )
        return cls(Path(path).expanduser().absolute())

    def get_training_tasks(self) -> list[Task]:
        if not self._training_file.is_file():
            raise ConfigError(f"{_KEY}: no such file: {self._training_file}; {_COMMAND}")
        return read_task_file(self._training_file)

    def get_validation_tasks(self) -> list[Task]:
        """Empty where there are none."""
        return self._read_beside("validation")

    def get_test_tasks(self) -> list[Task]:
        """Empty where there are none."""
        return self._read_beside("test")

    def _read_beside(self, name: Literal["validation", "test"]) -> list[Task]:
        path = file_beside(self._training_file, name)
        return read_task_file(path) if path.is_file() and path.stat().st_size else []
