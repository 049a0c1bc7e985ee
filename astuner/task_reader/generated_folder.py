"""Tasks from the folder of a generated set; `task_generation` makes such folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from astuner.errors import ConfigError
from astuner.task_reader.jsonl_dataset_file import read_task_file
from astuner.types import Task

_KEY = "task_reader.data_generation.output_dir"
_TRAIN_FILE, _VALIDATION_FILE, _TEST_FILE = "train.jsonl", "validation.jsonl", "test.jsonl"
_COMMAND = "make it by `astuner generate --conf FILE`, or start the run by `astuner --conf FILE`"


class GeneratedFolderReader:
    """Reads `task_reader.type: data_generation`; the set has been made by then."""

    def __init__(self, folder: Path) -> None:
        """Absolute."""
        self._folder = folder

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], search_dirs: Sequence[Path]) -> Self:
        del search_dirs  # where it lies does not depend on what else is there
        folder = settings.get("output_dir")
        if folder is None:
            raise ConfigError(
                f"{_KEY} is not set, so there is no folder to read tasks from; {_COMMAND}, which "
                "find it by the name of the YAML"
            )
        return cls(Path(folder).expanduser().absolute())

    def get_training_tasks(self) -> list[Task]:
        return self._read(_TRAIN_FILE)

    def get_validation_tasks(self) -> list[Task]:
        """Empty where the set was made without any."""
        return [] if self._is_empty(_VALIDATION_FILE) else self._read(_VALIDATION_FILE)

    def get_test_tasks(self) -> list[Task]:
        """Empty where the set was made without any, as by earlier releases."""
        has_none = self._folder.is_dir() and not (self._folder / _TEST_FILE).exists()
        return [] if has_none or self._is_empty(_TEST_FILE) else self._read(_TEST_FILE)

    def _is_empty(self, name: str) -> bool:
        path = self._folder / name
        return path.is_file() and path.stat().st_size == 0

    def _read(self, name: str) -> list[Task]:
        path = self._folder / name
        if not path.is_file():
            there = "there is no such folder" if not self._folder.is_dir() else f"no {name} in it"
            raise ConfigError(f"{_KEY}: no generated set in {self._folder}: {there}; {_COMMAND}")
        return read_task_file(path)
