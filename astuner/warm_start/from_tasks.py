"""Tasks with a reference answer as conversations that end with it."""

from collections.abc import Iterable, Iterator
from typing import Any

from astuner.traces.reading import Unread
from astuner.types import Task
from astuner.warm_start.conversation import GivenConversation

ANSWER_KEYS = ("answer", "reference", "reference_answer", "ground_truth", "solution")
"""Where tasks keep it in their metadata, in the order in which they are looked for."""
FROM_TRACES = "reference_from"
"""What tasks made of traces say of their reference, and no others."""


def conversations_of_tasks(
    tasks: Iterable[Task], unread: Unread, *, answer_key: str | None
) -> Iterator[GivenConversation]:
    """Of each task that has an answer; the others go to `unread`. Only the answer is learned.

    What the workflow itself says to the model, such as a system prompt, is not known to a task.
    """
    for task in tasks:
        answer = _answer(task, answer_key)
        if answer is None:
            looked_for = answer_key or ", ".join(ANSWER_KEYS)
            unread.add(f"no text or number in metadata under {looked_for}", f"task {task.task_id}")
        else:
            yield _conversation(task, answer)


def _answer(task: Task, answer_key: str | None) -> str | None:
    keys = ANSWER_KEYS if answer_key is None else (answer_key,)
    found = next((task.metadata[key] for key in keys if task.metadata.get(key) is not None), None)
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    text = str(found) if is_number else found
    return text if isinstance(text, str) and text.strip() else None


def _conversation(task: Task, answer: str) -> GivenConversation:
    messages: list[dict[str, Any]] = [
        *task.init_messages,
        {"role": "user", "content": task.main_query},
        {"role": "assistant", "content": answer},
    ]
    tools = task.metadata.get("tools")
    return GivenConversation(
        name=f"task {task.task_id}",
        messages=messages,
        tools=tools if isinstance(tools, list) else (),
        learned=frozenset({len(messages) - 1}),
    )
