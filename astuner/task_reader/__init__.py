"""Readers: where the tasks come from. One file per `task_reader.type`.

Reads and checks; does not shuffle (see `order`) and does not limit how many are used.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from astuner.config.reader_choice import section_of
from astuner.errors import ConfigError
from astuner.task_reader.env_service import EnvServiceReader
from astuner.task_reader.generated_folder import GeneratedFolderReader
from astuner.task_reader.harbor import HarborReader
from astuner.task_reader.huggingface_dat_repo import HuggingfaceDatRepoReader
from astuner.task_reader.jsonl_dataset_file import JsonlDatasetFileReader
from astuner.task_reader.mixture import MixtureReader, naming_the_source
from astuner.task_reader.openenv import OpenEnvReader
from astuner.task_reader.ors import OrsReader
from astuner.task_reader.random_dummy import RandomDummyReader
from astuner.task_reader.reader import TaskReader
from astuner.task_reader.reasoning_gym import ReasoningGymReader
from astuner.task_reader.tracing import TracedTasksReader

MakeReader = Callable[[Mapping[str, Any], Sequence[Path]], TaskReader]


def _mixture_of(settings: Mapping[str, Any], search_dirs: Sequence[Path]) -> TaskReader:
    readers = {}
    for name, source in settings["sources"].items():
        with naming_the_source(name):
            section = source.get(section_of(source["type"])) or {}
            readers[name] = make_task_reader(source["type"], section, search_dirs)
    return MixtureReader(readers)


READERS: Mapping[str, MakeReader] = {
    "jsonl_dataset_file": JsonlDatasetFileReader.from_settings,
    "huggingface_dat_repo": HuggingfaceDatRepoReader.from_settings,
    "harbor": HarborReader.from_settings,
    "env_service": EnvServiceReader.from_settings,
    "random_dummy": RandomDummyReader.from_settings,
    "openenv": OpenEnvReader.from_settings,
    "ors": OrsReader.from_settings,
    "reasoning_gym": ReasoningGymReader.from_settings,
    "data_generation": GeneratedFolderReader.from_settings,
    "tracing": TracedTasksReader.from_settings,
    "mixture": _mixture_of,
}


def make_task_reader(
    reader_type: str, settings: Mapping[str, Any], search_dirs: Sequence[Path] = ()
) -> TaskReader:
    """The reader of `task_reader.type`, from its own section as plain values.

    Relative paths are looked for in `search_dirs` in order; in the current directory without any.
    Raises ConfigError for a type that is unknown, and for settings that lack what the reader needs.
    """
    if reader_type in READERS:
        return READERS[reader_type](settings, search_dirs)
    available = f"available are {', '.join(READERS)}"
    near = difflib.get_close_matches(reader_type, READERS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"task_reader.type: {reader_type!r} is unknown; {hint}{available}")
