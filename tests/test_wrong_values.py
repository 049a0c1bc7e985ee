"""All that is wrong with a body is said at once, on each wire."""

import asyncio

import pytest

from tests.gateways import QUESTION, serving

TOOL = {"type": "function", "function": {"name": "f", "parameters": []}}
WRONG = {
    "chat/completions": (
        {
            "messages": [*QUESTION, 5, {**QUESTION[0], "tool_calls": {}}],
            "tools": [TOOL, {"type": "retrieval"}],
            "tool_choice": "required",
            "n": 0,
            "seed": "x",
            "stream": "yes",
            "stop": [""],
            "top_logprobs": 3,
            "logit_bias": {"5": 1},
            "stream_options": {"include_usage": 1},
            "response_format": {"type": "xml"},
            "colour": 1,
        },
        [
            "messages[1]",
            "messages[2].tool_calls",
            "tools[0].function.parameters",
            "tools[1].type",
            "tools[1].function",
            "stop",
            "seed",
            "top_logprobs",
            "response_format.type",
            "n",
            "logit_bias",
            "stream",
            "stream_options.include_usage",
            "colour",
        ],
    ),
    "completions": (
        {"prompt": 5, "max_tokens": 0, "n": 1000, "echo": True, "temperature": "hot", "colour": 1},
        ["prompt", "max_tokens", "n", "echo", "temperature", "colour"],
    ),
    "responses": (
        {
            "input": [
                {"role": "user", "content": 5},
                {"type": "image"},
                7,
                {"type": "function_call", "call_id": 5, "name": "f", "arguments": "{}"},
            ],
            "tools": [{"type": "function", "description": 5}],
            "include": ["everything"],
            "max_output_tokens": -1,
            "background": True,
            "reasoning": {"effort": "high"},
            "text": {"format": {"type": "xml"}},
            "top_p": [],
            "colour": 1,
        },
        [
            "tools[0].name",
            "include",
            "input[0].content",
            "input[1].type",
            "input[2]",
            "input[3].call_id",
            "max_output_tokens",
            "text.format.type",
            "background",
            "reasoning.effort",
            "top_p",
            "colour",
        ],
    ),
    "messages": (
        {
            "system": 5,
            "messages": [
                {"role": "user", "content": [{"type": "image"}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": 5}]},
                {"role": "assistant", "content": 5},
            ],
            "tools": [{"name": "f", "input_schema": 5}, 6],
            "tool_choice": {"type": "any"},
            "stop_sequences": 5,
            "output_config": {"format": {"type": "xml"}},
            "thinking": {"type": "enabled"},
            "top_k": 0.5,
            "colour": 1,
        },
        [
            "max_tokens",
            "system",
            "messages[0].content[0]",
            "messages[1].content[0].tool_use_id",
            "messages[2].content",
            "tools[0].parameters",
            "tools[1]",
            "stop_sequences",
            "output_config.format.type",
            "thinking.type",
            "top_k",
            "colour",
        ],
    ),
}


async def refusal_of(path: str, body: dict) -> dict:
    async with serving(lambda prompt: "five") as it:
        response = await it.post(path, body)
        assert response.status_code == 400 and it.calls == []
        return response.json()["error"]


@pytest.mark.parametrize("path", WRONG)
def test_all_wrong_values_of_a_body_are_named_at_once(path) -> None:
    body, names = WRONG[path]
    error = asyncio.run(refusal_of(path, body))
    message = error["message"]
    assert message.startswith(f"{len(names)} things are wrong with this call: (1) ")
    assert error.get("param", names[0]) == names[0]
    said = message.split(": (1) ")[1]
    assert [name for name in names if name not in said] == []


def test_one_wrong_value_is_said_plainly() -> None:
    error = asyncio.run(refusal_of("chat/completions", {"messages": QUESTION, "n": 0}))
    assert error["message"] == "n is 0; expected 1 to 128" and error["param"] == "n"


def test_all_wrong_messages_are_named_at_once() -> None:
    messages = [*QUESTION, {"role": "nobody"}, {"role": "user", "content": 5}, {"content": "?"}]
    error = asyncio.run(refusal_of("chat/completions", {"messages": messages}))
    assert error["param"] == "messages"
    for said in ("message 1: role is 'nobody'", "message 2: content is int", "message 3: role is"):
        assert said in error["message"]


def test_all_sampling_that_is_not_the_run_s_is_named_at_once() -> None:
    body = {"messages": QUESTION, "temperature": 0.1, "top_p": 0.5, "top_k": 7}
    error = asyncio.run(refusal_of("chat/completions", body))
    for said in ("temperature is 0.1", "top_p is 0.5", "top_k is 7"):
        assert said in error["message"]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "?", "tool_calls": index} for index in range(15_000)],
        [5] * 9000,
    ],
)
def test_what_is_said_of_many_wrong_values_is_bounded(messages) -> None:
    async def body() -> None:
        async with serving(lambda prompt: "five", max_body_bytes=10**7) as it:
            response = await it.ask(messages=messages)
            assert response.status_code == 400
            assert f"{len(messages)} things are wrong" in response.json()["error"]["message"]
            assert len(response.content) < 5000

    asyncio.run(body())


def test_a_stop_of_any_length_is_refused() -> None:
    body = {"messages": QUESTION, "stop": ["x" * 1001]}
    error = asyncio.run(refusal_of("chat/completions", body))
    assert error["param"] == "stop" and "at most 1000 characters" in error["message"]
