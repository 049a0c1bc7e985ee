"""Which sets of tasks a configuration asks to be made, and where they lie."""

from collections.abc import Mapping
from pathlib import Path

from astuner.config.sections.data_generation import DataGenerationSettings
from astuner.config.sections.task_reader import TaskReaderSettings

USUAL_DIR = "generated_tasks"
"""In the folder that a run or a generation was started in."""


def generated_sources(reader: TaskReaderSettings) -> Mapping[str, DataGenerationSettings]:
    """The sections of the sources that are made, by `Task.source`; empty where none is."""
    if reader.type == "data_generation":
        return {"": reader.data_generation}
    if reader.type != "mixture":
        return {}
    return {
        name: source.data_generation
        for name, source in reader.mixture.sources.items()
        if source.type == "data_generation"
    }


def section_key(source: str) -> str:
    """Where the section of a source stands in the settings."""
    if not source:
        return "astuner.task_reader.data_generation"
    return f"astuner.task_reader.mixture.sources.{source}.data_generation"


def set_folder(section: DataGenerationSettings, *, source: str, name: str, home: Path) -> Path:
    """The folder of a set; relative ones count from `home`. `name` is that of the runs."""
    if section.output_dir is not None:
        return home / Path(section.output_dir).expanduser()
    return home / USUAL_DIR / name / source
