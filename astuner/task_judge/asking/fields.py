"""What a judge shows its model of a task, from the fields that the settings name."""

import json
import math
from typing import Any

from astuner.errors import JudgeError
from astuner.types import WorkflowTask


def question_text(task: WorkflowTask, field: str) -> str:
    """The task's `main_query`, or what its metadata has by another name.

    Raises JudgeError where there is none.
    """
    value = task.task.main_query if field == "main_query" else task.task.metadata.get(field)
    if _is_missing(value):
        raise JudgeError(
            f"cannot judge task {task.task_id}: it has no question in {field!r}; found main_query "
            f"and metadata with {sorted(map(str, task.task.metadata))}; name the field of the "
            "question in the judge's query_field"
        )
    return _text(value)


def reference_text(task: WorkflowTask, field: str | None) -> str | None:
    """What the task's metadata gives as the right answer; None where it gives none.

    Anything that is no text stands there as JSON.
    """
    value = None if field is None else task.task.metadata.get(field)
    return None if _is_missing(value) else _text(value)


def _is_missing(value: Any) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
