"""Kinds of tasks: by their source, or by a field of their metadata."""

import difflib
from collections.abc import Sequence

from astuner.errors import ConfigError
from astuner.evaluation.outcomes import TaskOutcomes

_NUM_NAMED = 12
_MANY_VALUES = 30
"""A field with more values tells tasks apart rather than kinds of tasks."""


def tasks_by_tag(tasks: Sequence[TaskOutcomes], field: str) -> dict[str, list[TaskOutcomes]]:
    """Value of the tag -> its tasks, the most first; "" for tasks without it.

    Raises ConfigError for a field that no task has.
    """
    if not any(field in task.tags for task in tasks):
        raise ConfigError(
            f"no task has a tag {field!r}; {known_tags(tasks, near=field)}. A tag is `source`, "
            "or a field of the tasks' metadata whose value is a number or a short text"
        )
    parts: dict[str, list[TaskOutcomes]] = {}
    for task in tasks:
        parts.setdefault(task.tags.get(field, ""), []).append(task)
    return dict(sorted(parts.items(), key=lambda part: (-len(part[1]), part[0])))


def known_tags(tasks: Sequence[TaskOutcomes], *, near: str) -> str:
    """In words, the tags by which tasks may be told apart: those like `near`, then those that tell
    kinds of tasks apart, then the others."""
    kinds = kinds_of_tasks(tasks)
    others = {name for task in tasks for name in task.tags}.difference(kinds)
    named = listed([*kinds, *sorted(others)], near=near)
    return f"there are {named}" if named else "its tasks have none"


def listed(names: Sequence[str], *, near: str) -> str:
    """The first of the names for a message, those like `near` before all others, and how many more
    there are; empty where there are none."""
    alike = difflib.get_close_matches(near, names, n=_NUM_NAMED)
    ordered = [*alike, *(name for name in names if name not in alike)]
    num_left = len(ordered) - _NUM_NAMED
    more = f" and {num_left} more" if num_left > 0 else ""
    return ", ".join(ordered[:_NUM_NAMED]) + more


def kinds_of_tasks(tasks: Sequence[TaskOutcomes]) -> list[str]:
    """The tags that tell kinds of tasks apart rather than single tasks."""
    values: dict[str, set[str]] = {}
    for task in tasks:
        for name, value in task.tags.items():
            values.setdefault(name, set()).add(value)
    most = min(_MANY_VALUES, len(tasks) / 2)
    return sorted(name for name, own in values.items() if len(own) <= most)


def tag_name(field: str | None, value: str) -> str:
    """As a person would write it; tasks without the tag have an empty value."""
    return f"{field}={value}" if value else f"without {field}"
