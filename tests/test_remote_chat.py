"""Agents answered by an OpenAI-compatible server: what is sent, recorded and said of errors."""

import asyncio

import pytest

from astuner.errors import EngineError
from astuner.inference.request import ChatReply, ChatRequest
from astuner.inference.shapes.remote import RemoteChat
from astuner.llm.dialect import Dialect
from astuner.llm.server import LlmServer
from astuner.trajectory.recorder import Recorder
from tests.llm_server import Reply, answers_as_gpt5, refuses, says, serving

pytest.importorskip("openai")

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def complete(server, recorder: Recorder, *, url: str | None = None, **request) -> ChatReply:
    async def run():
        opened = LlmServer.read(url or server.base_url, "MY_KEY", {"MY_KEY": "k"})
        async with opened.open_client(max_retries=0) as client:
            chat = RemoteChat(
                client,
                recorder,
                model_name="m",
                temperature=0.9,
                max_new_tokens=50,
                offers_tools=True,
                dialect=Dialect("m"),
            )
            return await chat.complete(ChatRequest(**request))

    return asyncio.run(run())


def test_a_call_is_sent_with_its_tools_and_recorded_without_tokens():
    messages = [{"role": "user", "content": "2 + 3?"}]
    recorder = Recorder()
    with serving([says("5")]) as server:
        reply = complete(server, recorder, messages=messages, tools=[TOOL])
    (asked,) = server.requests
    assert (asked["messages"], asked["tools"]) == (messages, [TOOL])
    assert (asked["temperature"], asked["max_tokens"]) == (0.9, 50)
    assert server.keys == ["k"]
    assert (reply.text, reply.num_prompt_tokens, reply.num_sampled_tokens) == ("5", 7, 3)
    (call,) = recorder.calls
    assert call.prompt_ids == call.completion.ids == ()


def test_equal_calls_are_each_asked():
    with serving([says("5"), says("five")]) as server:
        answers = [complete(server, Recorder(), messages=[]).text for _ in range(2)]
    assert answers == ["5", "five"]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(body=b"{}"), "is no chat completion but .*; does the address end in /v1"),
        (refuses(400, "too long"), "did not answer model 'm': .*too long"),
    ],
)
def test_what_the_server_does_wrong_is_named_with_the_setting(reply, said):
    with serving([reply]) as server, pytest.raises(EngineError, match=said) as caught:
        complete(server, Recorder(), messages=[])
    assert f"debug.openai_base_url {server.base_url}" in str(caught.value)


@pytest.mark.parametrize("reply", [Reply(body=b"{}"), refuses(400, "too long")])
def test_a_password_in_the_address_of_the_server_stands_in_no_error(reply):
    with serving([reply]) as server, pytest.raises(EngineError) as caught:
        url = server.base_url.replace("://", "://me:hunter2@")
        complete(server, Recorder(), url=url, messages=[])
    assert "http://me:***@127.0.0.1" in str(caught.value) and "hunter2" not in str(caught.value)


def test_what_a_model_refuses_of_limit_and_temperature_is_left_out_from_then_on(caplog):
    dialect = Dialect("m")

    async def run(server):
        opened = LlmServer.read(server.base_url, "MY_KEY", {})
        async with opened.open_client(max_retries=0) as client:
            made = {"model_name": "m", "temperature": 0.0, "max_new_tokens": 50}
            chats = [
                RemoteChat(client, Recorder(), offers_tools=True, dialect=dialect, **made)
                for _ in range(6)
            ]
            await asyncio.gather(*(chat.complete(ChatRequest(messages=[])) for chat in chats[:5]))
            num_asked = len(server.requests)
            await chats[5].complete(ChatRequest(messages=[]))
            return num_asked, chats[5].recorder.calls[0]

    with serving(answers_as_gpt5) as server:
        num_asked, call = asyncio.run(run(server))
    asked = server.requests[num_asked:]
    assert asked == [{"model": "m", "messages": [], "max_completion_tokens": 50}]
    assert call.temperature == 1.0
    said = [record.message for record in caplog.records if "refused" in record.message]
    assert len(said) == 2 and "max_completion_tokens" in said[0] and "temperature" in said[1]


@pytest.mark.parametrize(
    "reply",
    [
        refuses(400, "max_tokens must be at least 100"),
        refuses(400, "temperature must be below 2"),
        refuses(500, "max_completion_tokens"),
    ],
)
def test_any_other_refusal_is_asked_no_second_time(reply):
    with serving(lambda _: reply) as server, pytest.raises(EngineError):
        complete(server, Recorder(), messages=[])
    assert len(server.requests) == 1


def test_a_server_that_refuses_both_names_of_the_limit_is_asked_twice():
    reply = refuses(400, "neither max_tokens nor max_completion_tokens is taken")
    with serving(lambda _: reply) as server, pytest.raises(EngineError, match="neither"):
        complete(server, Recorder(), messages=[])
    assert len(server.requests) == 2


def test_values_for_the_chat_template_are_passed_on():
    with serving([says("5")]) as server:
        complete(server, Recorder(), messages=[], chat_template_kwargs={"enable_thinking": False})
    (asked,) = server.requests
    assert asked["chat_template_kwargs"] == {"enable_thinking": False}
