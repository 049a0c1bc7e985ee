"""The sources that tasks come from: one, or the named ones of a mixture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from astuner.config.reader_choice import section_of
from astuner.config.sections.task_reader import OneReaderSettings, TaskReaderSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSource:
    """Where some of the tasks of a run come from, and who acts on them and judges them."""

    type: str
    """As task_reader.type."""
    settings: Mapping[str, Any]
    """The section of that type, as plain values."""
    share: float = 1.0
    """Of the tasks of each batch, in relation to the shares of the others."""
    workflow: str | None = None
    """Path of its own workflow; None: rollout.agentscope_workflow."""
    judge: str | None = None
    """Path of its own judge; None: task_judge.judge_protocol."""


def task_sources(settings: TaskReaderSettings) -> Mapping[str, TaskSource]:
    """By `Task.source`: one that is called "", unless the tasks are mixed."""
    if settings.type != "mixture":
        return {"": TaskSource(type=settings.type, settings=_section_of(settings))}
    return {
        name: TaskSource(
            type=source.type,
            settings=_section_of(source),
            share=source.share,
            workflow=source.workflow,
            judge=source.judge,
        )
        for name, source in settings.mixture.sources.items()
    }


def shares_of(settings: TaskReaderSettings) -> Mapping[str, float]:
    """Of the tasks of a batch, by source."""
    return {name: source.share for name, source in task_sources(settings).items()}


def _section_of(settings: OneReaderSettings) -> Mapping[str, Any]:
    section = getattr(settings, section_of(settings.type), None)
    return section.model_dump() if section else {}
