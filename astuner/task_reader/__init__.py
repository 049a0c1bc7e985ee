"""Readers: where the tasks come from. One file per `task_reader.type`.

Reads and checks; does not shuffle (see `order`) and does not limit how many are used.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from astuner.errors import ConfigError
from astuner.task_reader.huggingface_dat_repo import HuggingfaceDatRepoReader
from astuner.task_reader.jsonl_dataset_file import JsonlDatasetFileReader
from astuner.task_reader.random_dummy import RandomDummyReader
from astuner.types import Task


class TaskReader(Protocol):
    """Reads when asked. Raises TaskReadError for a source that cannot be read or is empty."""

    def get_training_tasks(self) -> list[Task]: ...

    def get_validation_tasks(self) -> list[Task]:
        """Empty where no validation source is configured."""
        ...


MakeReader = Callable[[Mapping[str, Any], Sequence[Path]], TaskReader]

READERS: Mapping[str, MakeReader] = {
    "jsonl_dataset_file": JsonlDatasetFileReader.from_settings,
    "huggingface_dat_repo": HuggingfaceDatRepoReader.from_settings,
    "random_dummy": RandomDummyReader.from_settings,
}
PLANNED_READERS = ("env_service", "data_generation", "tracing")
"""Types of the configuration that this version knows but cannot read."""


def make_task_reader(
    reader_type: str, settings: Mapping[str, Any], search_dirs: Sequence[Path] = ()
) -> TaskReader:
    """The reader of `task_reader.type`, from its own section as plain values.

    Relative paths are looked for in `search_dirs` in order; in the current directory without any.
    Raises ConfigError for a type that is unknown or not available, and for settings that lack
    what the reader needs.
    """
    if reader_type in READERS:
        return READERS[reader_type](settings, search_dirs)
    available = f"available are {', '.join(READERS)}"
    if reader_type in PLANNED_READERS:
        raise ConfigError(
            f"task_reader.type: {reader_type!r} is not available in this version; {available}"
        )
    near = difflib.get_close_matches(reader_type, (*READERS, *PLANNED_READERS), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"task_reader.type: {reader_type!r} is unknown; {hint}{available}")
