"""Tasks that stand twice, in training or in both splits: cheap enough for the start of every run.

Compares questions word by word, without case and punctuation; what is alike in other words is for
`astuner doctor`. Pure functions.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from astuner.config.sections.task_reader import TaskReaderSettings
from astuner.task_reader.sources import task_sources
from astuner.types import Task

NUM_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedTask:
    """Two tasks that ask the same, by their ids."""

    later: str
    earlier: str
    has_other_answer: bool
    """Whether their metadata name different answers."""

    def __str__(self) -> str:
        return f"{self.later} as {self.earlier}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSigns:
    """What is wrong with two splits at a glance."""

    doubled_ids: tuple[str, ...]
    """Ids that more than one training task has, each once."""
    repeated: tuple[RepeatedTask, ...]
    """Training tasks that ask what an earlier one asks."""
    leaked: tuple[RepeatedTask, ...]
    """Validation tasks that ask what a training task asks."""


def with_content(settings: TaskReaderSettings, tasks: Sequence[Task]) -> list[Task]:
    """Those that say what they are about: not the numbers of random_dummy, which a workflow makes
    its tasks of, and none whose question is made in an environment."""
    dummies = {
        name for name, source in task_sources(settings).items() if source.type == "random_dummy"
    }
    return [task for task in tasks if task.source not in dummies and task.env_type == "no_env"]


def find_signs(training: Sequence[Task], validation: Sequence[Task]) -> TaskSigns:
    """Takes time linear in all texts: about 10 ms for a thousand tasks."""
    ids: set[str] = set()
    doubled = {task.task_id for task in training if task.task_id in ids or ids.add(task.task_id)}
    known: dict[str, Task] = {}
    repeated = tuple(_pairs(training, known, learns=True))
    return TaskSigns(
        doubled_ids=tuple(sorted(doubled)),
        repeated=repeated,
        leaked=tuple(_pairs(validation, known, learns=False)),
    )


def warning_of_answers(signs: TaskSigns) -> str | None:
    """That the same question has two answers, for the screen."""
    others = [pair for pair in signs.repeated if pair.has_other_answer]
    if not others:
        return None
    return (
        f"{len(others)} training tasks ask what an earlier one asks, with another answer "
        f"({shown(others)}); `astuner doctor` tells more"
    )


def shown(pairs: Sequence[RepeatedTask]) -> str:
    more = f" and {len(pairs) - NUM_SHOWN} more" if len(pairs) > NUM_SHOWN else ""
    return ", ".join(str(pair) for pair in pairs[:NUM_SHOWN]) + more


def _pairs(
    tasks: Sequence[Task], known: dict[str, Task], *, learns: bool
) -> Iterator[RepeatedTask]:
    for task in tasks:
        key = _asked(task)
        earlier = known.get(key)
        if earlier is not None:
            yield RepeatedTask(
                later=task.task_id,
                earlier=earlier.task_id,
                has_other_answer=_answer(task) != _answer(earlier),
            )
        elif learns:
            known[key] = task


def _asked(task: Task) -> str:
    """What a task asks; one without a question is known by its row."""
    words = " ".join(task.main_query.casefold().split())
    if words and not task.init_messages:
        return f"{task.source}\0{words}"
    rest = [task.init_messages, task.metadata]
    return f"{task.source}\0{words}\0{json.dumps(rest, sort_keys=True, default=str)}"


def _answer(task: Task) -> str:
    return str(task.metadata.get("answer"))
