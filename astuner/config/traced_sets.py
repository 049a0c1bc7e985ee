"""Which tasks a configuration asks to be made from traces, and where they lie."""

from collections.abc import Mapping
from pathlib import Path

from astuner.config.sections.task_reader import FeedbackTracingSettings, TaskReaderSettings

USUAL_DIR = "traced_tasks"
"""In the folder that a run was started in."""
_USUAL_FILE = "tasks.jsonl"


def traced_sources(reader: TaskReaderSettings) -> Mapping[str, FeedbackTracingSettings]:
    """The sections of the sources that are made from traces, by `Task.source`."""
    if reader.type == "tracing":
        return {"": reader.feedback_tracing}
    if reader.type != "mixture":
        return {}
    return {
        name: source.feedback_tracing
        for name, source in reader.mixture.sources.items()
        if source.type == "tracing"
    }


def tracing_key(source: str) -> str:
    """Where the section of a source stands in the settings."""
    if not source:
        return "astuner.task_reader.feedback_tracing"
    return f"astuner.task_reader.mixture.sources.{source}.feedback_tracing"


def traced_file(section: FeedbackTracingSettings, *, source: str, name: str, home: Path) -> Path:
    """The file of the tasks for training; relative ones count from `home`. `name` is that of the
    runs."""
    if section.train_output_path is not None:
        return home / Path(section.train_output_path).expanduser()
    return home / USUAL_DIR / name / source / _USUAL_FILE


def addresses_of(section: FeedbackTracingSettings) -> tuple[str, ...]:
    """Of all places with traces."""
    if section.base_url is None:
        return ()
    return (section.base_url,) if isinstance(section.base_url, str) else tuple(section.base_url)
