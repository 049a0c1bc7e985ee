"""What an agent's message asks to be done: tool calls, or a block of shell code, and the last word.

In plain text the first ```bash block is run, and `task_complete` on a line of its own ends the
task, behind that block where there is one.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astuner.types import Tool

DONE_WORD = "task_complete"
_RUN = "run_command"
_MAX_COMMAND_BYTES = 100_000
"""Linux takes no argument of more than 128 KiB."""
_BLOCK = re.compile(r"^[ \t]*```(?:bash|sh|shell)[ \t]*\n(.*?)^[ \t]*```[ \t]*$", re.M | re.S)
_DONE_LINE = re.compile(rf"^[ \t`*]*{DONE_WORD}[ \t`*.]*$", re.M)

TOOLS: Sequence[Tool] = (
    {
        "type": "function",
        "function": {
            "name": _RUN,
            "description": "Run a command or script of bash; returns what it prints.",
            "parameters": {
                "type": "object",
                "properties": {"command": {"type": "string", "description": "What bash runs."}},
                "required": ["command"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": DONE_WORD,
            "description": "Hand the task in. Nothing can be done afterwards.",
            "parameters": {"type": "object", "properties": {}},
        },
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One thing that is asked for: a command, the end of the task, or neither, with a problem."""

    command: str | None = None
    is_end: bool = False
    problem: str | None = None
    """What the agent is told where its wish cannot be read."""
    call_id: str | None = None
    is_call: bool = False
    """It came as a tool call and is answered as one."""


def read_wishes(action: Mapping[str, Any]) -> list[Wish]:
    """What an assistant's message asks for, in order; never empty."""
    calls = action.get("tool_calls") or ()
    if calls:
        return [_of_call(call) for call in calls]
    content = action.get("content")
    text = content.replace("\r\n", "\n") if isinstance(content, str) else ""
    block = _BLOCK.search(text)
    found = [] if block is None else [_of_command(block[1])]
    if _DONE_LINE.search(_BLOCK.sub("", text)):
        found.append(Wish(is_end=True))
    if found:
        return found
    problem = f"Nothing was run: write one ```bash block, or {DONE_WORD} alone on a line."
    return [Wish(problem=problem)]


def _of_call(call: Any) -> Wish:
    call = call if isinstance(call, Mapping) else {}
    function = call["function"] if isinstance(call.get("function"), Mapping) else call
    name, arguments, call_id = function.get("name"), function.get("arguments"), call.get("id")
    if name == DONE_WORD:
        return Wish(is_end=True, call_id=call_id, is_call=True)
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    command = arguments.get("command") if isinstance(arguments, Mapping) else None
    if name != _RUN:
        problem = f"There is no tool {name!r:.80}; the tools are {_RUN} and {DONE_WORD}."
    elif not isinstance(command, str):
        problem = f'{_RUN} takes {{"command": "…"}}; nothing was run.'
    else:
        return _of_command(command, call_id=call_id, is_call=True)
    return Wish(problem=problem, call_id=call_id, is_call=True)


def _of_command(command: str, *, call_id: str | None = None, is_call: bool = False) -> Wish:
    try:
        size = len(command.encode())
    except UnicodeEncodeError:
        size = None
    problem = None
    if size is None or "\0" in command:
        problem = "Nothing was run: the command has a character that bash cannot take."
    elif size > _MAX_COMMAND_BYTES:
        problem = (
            f"Nothing was run: the command has {size} bytes, and at most {_MAX_COMMAND_BYTES} are "
            "taken; write files in several steps."
        )
    runs = command if problem is None else None
    return Wish(command=runs, problem=problem, call_id=call_id, is_call=is_call)
