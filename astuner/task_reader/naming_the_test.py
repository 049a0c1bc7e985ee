"""Whether the settings of a source name a test split, and by which setting they would.

Knows the settings only: whether there are such tasks, the reader says.
"""

from collections.abc import Mapping
from typing import Any

from astuner.config.reader_choice import section_of
from astuner.config.sections.task_reader import TaskReaderSettings
from astuner.config.trace_steps import planned_steps
from astuner.task_reader.sources import task_sources

_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "jsonl_dataset_file": ("test.file_path",),
    "huggingface_dat_repo": ("test_split",),
    "env_service": ("test_split",),
    "openenv": ("test_split", "num_test_tasks"),
    "ors": ("test_split",),
    "harbor": ("test_path",),
    "random_dummy": ("num_test_tasks",),
    "reasoning_gym": ("num_test_tasks",),
    "data_generation": ("test_fraction",),
    "tracing": ("filters",),
}
"""Of each type, those that name its test, the usual one first."""


def has_test_setting(settings: TaskReaderSettings) -> bool:
    """Whether any source has a test."""
    return any(
        planned_steps(source.settings["filters"]).split.test_fraction
        if source.type == "tracing"
        else any(_value(source.settings, key) for key in _SETTINGS.get(source.type, ()))
        for source in task_sources(settings).values()
    )


def setting_of_test(settings: TaskReaderSettings) -> str:
    """The setting that would name a test; of a mixture, that of its first source."""
    name, source = next(iter(task_sources(settings).items()))
    section = f"task_reader.mixture.sources.{name}" if name else "task_reader"
    keys = _SETTINGS.get(source.type)
    return f"{section}.{section_of(source.type)}.{keys[0]}" if keys else f"{section}.type"


def _value(section: Mapping[str, Any], key: str) -> Any:
    value: Any = section
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
