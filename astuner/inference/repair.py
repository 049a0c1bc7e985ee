"""Answers that are to be JSON: one that is not is asked for once more, in the same conversation."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from astuner.inference.answer_format import AnswerFormat, FormatCheck, check_format, format_problem
from astuner.inference.excerpt import SHOWN_CHARACTERS
from astuner.inference.messages import assistant_message
from astuner.inference.request import ChatReply, ChatRequest
from astuner.types import Message

AnswerOnce = Callable[[ChatRequest, FormatCheck], Awaitable[ChatReply]]
"""Answers one call; a reply in the demanded format gets this `format_check`."""
Checked = Callable[..., Awaitable[Any]]
"""What a check gives, called so that it holds up nobody; see `Lane.checked`."""


async def answer_in_format(
    request: ChatRequest, demanded: AnswerFormat, answer_once: AnswerOnce, checked: Checked
) -> ChatReply:
    """The first answer where it fits or there is no room for another, else the second.

    The counts and `calls` of a second one are those of both. None of them is taken yet: should the
    repair fail, nobody gets any of it.
    """
    await checked(check_format, demanded)
    untaken = replace(request, is_taken=False)
    first = await answer_once(untaken, "validated")
    if first.format_check != "invalid" or not first.num_sampled_tokens:
        return first
    said = assistant_message(first.text, reasoning=first.reasoning)
    problem = await checked(format_problem, first.text, demanded)
    messages = [*request.messages, said, _demand(problem, demanded)]
    second = await answer_once(replace(untaken, messages=messages), "repaired")
    if not second.num_sampled_tokens:
        return first
    return replace(
        second,
        calls=first.calls + second.calls,
        num_prompt_tokens=first.num_prompt_tokens + second.num_prompt_tokens,
        num_sampled_tokens=first.num_sampled_tokens + second.num_sampled_tokens,
        seconds=first.seconds + second.seconds,
    )


def _demand(problem: str | None, answer_format: AnswerFormat) -> Message:
    """What is said to the model after an answer that is not what was demanded."""
    problem = problem or "it is not in the demanded format"
    wanted = "one JSON object"
    if answer_format.schema is not None:
        schema = json.dumps(answer_format.schema, ensure_ascii=False)
        wanted = f"JSON that fits this schema: {schema}"
    content = f"This answer cannot be used: {problem[:SHOWN_CHARACTERS]}. Answer with {wanted}"
    return {"role": "user", "content": content}
