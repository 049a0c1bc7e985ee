"""What is different under a chat template that writes channels, as that of gpt-oss.

Which tokens end a turn there, and how its history says what an assistant thought and called.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from astuner.errors import ConfigError, RequestError
from astuner.inference.channels import CALL, CHANNEL, END, MESSAGE, RETURN, START
from astuner.inference.turn_end import Render, TurnEnd
from astuner.types import Message

_REPLY = "astuner-probe-reply"
_TURN_ENDS = (RETURN, CALL)
_READS_THINKING = re.compile(r"\.thinking\b|['\"]thinking['\"]")


def writes_channels(render: Render) -> bool:
    """Whether a template puts a reply into a channel."""
    question: Message = {"role": "user", "content": "probe"}
    reply: Message = {"role": "assistant", "content": _REPLY}
    return f"{CHANNEL}final{MESSAGE}{_REPLY}" in render([question, reply], False)


def stop_ids(ids: Iterable[int], vocabulary: Mapping[str, int]) -> frozenset[int]:
    """The ids and those that end a turn, without the one that only ends a message.

    Raises ConfigError where the tokenizer does not know the marks of channels as tokens.
    """
    missing = [
        mark for mark in (CHANNEL, MESSAGE, START, END, *_TURN_ENDS) if mark not in vocabulary
    ]
    if missing:
        raise ConfigError(
            "model.path: the chat template writes replies in channels, but the tokenizer has no "
            f"token {', '.join(missing)}, so that no reply would end; use the tokenizer that "
            "belongs to the template, or a template without channels"
        )
    return frozenset({*ids, *(vocabulary[end] for end in _TURN_ENDS)} - {vocabulary[END]})


def turn_end(found: TurnEnd) -> TurnEnd:
    """What was found of a template, for replies that more is said behind: those that call.

    The template writes an answer and what was thought before it otherwise once more follows, so
    that nothing is ever put behind one.
    """
    return replace(found, before="", lead="", mark=CALL, tail="", ended=CALL, stop_text=None)


def fit_history(messages: Sequence[Message], template: str) -> list[Message]:
    """The messages with the fields that the source of the `template` reads.

    Raises RequestError for a message that makes several calls, since a call ends the turn.
    """
    _check_calls(messages)
    reads_thinking = _READS_THINKING.search(template) and "reasoning_content" not in template
    return [_thinking(message) for message in messages] if reads_thinking else list(messages)


def _check_calls(messages: Sequence[Message]) -> None:
    for index, message in enumerate(messages):
        num_calls = len(message.get("tool_calls", ()))
        if num_calls > 1:
            raise RequestError(
                f"message {index} makes {num_calls} tool calls, and this model's chat template has "
                "room for one: a call ends its turn; send a message for each, each followed by its "
                "result",
                param="messages",
            )


def _thinking(message: Message) -> Message:
    """With `thinking` in place of `reasoning_content`, and no mark of a channel in either.

    Such templates refuse a text with that mark. They take one beside a call for a thought, and
    refuse both at once.
    """
    if message["role"] != "assistant":
        return message
    renamed: dict[str, Any] = {**message, "content": message["content"].replace(CHANNEL, "")}
    thought = renamed.pop("reasoning_content", "").replace(CHANNEL, "")
    if thought and "tool_calls" in renamed and renamed["content"]:
        thought, renamed["content"] = f"{thought}\n{renamed['content']}", ""
    if thought:
        renamed["thinking"] = thought
    return cast(Message, renamed)
