"""Files of conversations: OpenAI's chat form for fine-tuning, and tasks that were made of traces.

JSON lines, one object each. A line that is neither is counted with its reason, and the rest read.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from astuner.errors import TaskReadError
from astuner.machine.regular_file import open_regular
from astuner.traces.reading import Unread
from astuner.types import Task
from astuner.warm_start.conversation import GivenConversation
from astuner.warm_start.from_tasks import conversations_of_tasks

_LINES = ".jsonl"
_HELD_OUT = (".validation.jsonl", ".test.jsonl")
"""Beside the tasks of a folder: what no run may learn from."""


def conversations_of_path(
    path: Path, unread: Unread, *, answer_key: str | None
) -> Iterator[GivenConversation]:
    """Of a file, or of all files below a folder, in the order of their names.

    Raises TaskReadError where there is none, or one cannot be read.
    """
    for file in _files(path):
        place = file.name if path.is_file() else str(file.relative_to(path))
        yield from _of_file(file, place, unread, answer_key)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    hidden = (".", "_")
    found = [
        file
        for file in sorted(path.rglob(f"*{_LINES}"))
        if file.is_file() and not file.name.startswith(hidden) and not file.name.endswith(_HELD_OUT)
    ]
    if not found:
        raise TaskReadError(
            f"trainer_common.warm_start.path: {path} holds no file *{_LINES} to learn from; "
            'expected lines such as {"messages": [{"role": "user", …}, {"role": "assistant", …}]}'
        )
    return found


def _of_file(
    file: Path, place: str, unread: Unread, answer_key: str | None
) -> Iterator[GivenConversation]:
    try:
        with open_regular(file) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    name = f"{place}, line {number}"
                    yield from _of_line(line, name, unread, answer_key)
    except OSError as error:
        raise TaskReadError(
            f"trainer_common.warm_start.path: {file} cannot be read: {error.strerror}"
        ) from error


def _of_line(
    line: bytes, name: str, unread: Unread, answer_key: str | None
) -> Iterator[GivenConversation]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        unread.add("the line is not JSON", name)
        return
    if isinstance(row, dict) and "messages" in row:
        yield from _of_chat(row, name, unread)
    elif isinstance(row, dict) and "main_query" in row:
        yield from _of_task(row, name, unread, answer_key)
    elif isinstance(row, dict) and "steps" in row:
        reason = "a whole trace, of which nobody says whether it is good; make tasks of it first"
        unread.add(f"{reason} (task_reader.type: tracing)", name)
    else:
        unread.add("neither a conversation (messages) nor a task (main_query)", name)


def _of_chat(row: dict[str, Any], name: str, unread: Unread) -> Iterator[GivenConversation]:
    messages, tools = row["messages"], row.get("tools") or []
    if not _are_objects(messages) or not messages:
        unread.add("messages is not a list of objects", name)
    elif not _are_objects(tools):
        unread.add("tools is not a list of objects", name)
    elif row.get("functions"):
        unread.add("functions is no longer a form; write tools", name)
    else:
        yield GivenConversation(
            name=name, messages=messages, tools=tools, learned=_weighed(messages)
        )


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _weighed(messages: list[dict[str, Any]]) -> frozenset[int]:
    """A reply whose weight is 0 is there to be read only."""
    return frozenset(i for i, one in enumerate(messages) if one.get("weight", 1) != 0)


def _of_task(
    row: dict[str, Any], name: str, unread: Unread, answer_key: str | None
) -> Iterator[GivenConversation]:
    try:
        task = Task.model_validate({"task_id": name, **row})
    except ValidationError as error:
        unread.add(f"no task: {error.errors()[0]['msg']}", name)
        return
    yield from conversations_of_tasks([task], unread, answer_key=answer_key)
