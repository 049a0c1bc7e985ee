"""Answers in a form: asking for JSON of a pydantic model, and reading what came.

The form is asked for in words and checked here; `response_format` is not sent. Servers differ in
it: some refuse a schema, some take it and ignore it, some take a part of JSON Schema only, and an
AgentScope model has no place for it. So words and check are needed anyway, and with one way to ask
there is one way for it to fail.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Form = TypeVar("Form", bound=BaseModel)
Messages = Sequence[Mapping[str, Any]]
"""A conversation in OpenAI's format."""

_FENCED = re.compile(r"```[a-zA-Z]*[^\S\n]*\n(.*?)```", re.DOTALL)
_END_OF_REASONING = "</think>"
_MAX_PROBLEMS = 5


def ask_for(schema: type[BaseModel], messages: Messages) -> list[Mapping[str, Any]]:
    """The messages, of which the last also says in which form to answer."""
    wanted = (
        "Answer with JSON that fits the following schema, and with nothing else:\n"
        f"{json.dumps(schema.model_json_schema(), ensure_ascii=False)}"
    )
    *before, last = messages
    if last.get("role") == "user":  # some chat templates refuse two messages of one role in a row
        return [*before, {**last, "content": _extended(last.get("content"), wanted)}]
    return [*messages, {"role": "user", "content": wanted}]


def ask_again(messages: Messages, text: str, problem: str) -> list[Mapping[str, Any]]:
    """The conversation after an answer that does not do, with what is wrong with it."""
    return [
        *messages,
        {"role": "assistant", "content": text.strip() or "(nothing)"},  # some refuse empty ones
        {"role": "user", "content": f"This answer cannot be used: {problem}. Answer once more."},
    ]


def find_problem(text: str, schema: type[BaseModel] | None) -> str | None:
    """Why the text is no answer; None where it is one."""
    if not text.strip():
        return "it is empty"
    if schema is None:
        return None
    try:
        read_form(text, schema)
    except ValidationError as error:
        return _describe(error)
    return None


def read_form(text: str, schema: type[Form]) -> Form:
    """The object in a text: all of it, or a fenced block; reasoning before it does not count.

    Raises pydantic's ValidationError where it does not fit.
    """
    said = text.strip()
    if not said.startswith("{"):
        said = said.rpartition(_END_OF_REASONING)[2].strip()
    if not said.startswith("{") and (fenced := _FENCED.findall(said)):
        said = fenced[-1]
    return schema.model_validate_json(said)


def _extended(content: Any, wanted: str) -> Any:
    """The text, or the list of parts, with more text behind it."""
    if isinstance(content, list):
        return [*content, {"type": "text", "text": wanted}]
    return f"{content}\n\n{wanted}"


def _describe(error: ValidationError) -> str:
    problems = [
        f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}".removeprefix(": ")
        for detail in error.errors(include_url=False, include_input=False)
    ]
    return "; ".join(problems[:_MAX_PROBLEMS])
