"""Our client of the Open Reward Standard: sessions, tool calls, and what goes wrong."""

import asyncio
import json

import pytest

from astuner.env_service.ors import OrsEnvironments
from astuner.env_service.ors_events import ServerEvent, server_events
from astuner.errors import ConfigError, EnvServiceError, TaskReadError
from astuner.task_reader.ors import OrsReader
from astuner.types import Task
from tests.remote_servers import (
    CLOSED_PORT_URL,
    OpenEnvStandIn,
    OrsStandIn,
    event,
    served,
    tool_result,
)

SETTINGS = {
    "url": None,
    "env": None,
    "training_split": "train",
    "validation_split": None,
    "token_env": "NO_SUCH_TOKEN",
    "timeout_seconds": 20.0,
}
TASK = Task(
    main_query="", task_id="train-1", env_type="sums", metadata={"split": "train", "index": 1}
)


def calling(*calls):
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": f"c{number}", "function": {"name": name, "arguments": arguments}}
            for number, (name, arguments) in enumerate(calls)
        ],
    }


SUBMIT = calling(("submit", {"answer": 5}))


def environments(url, **changes):
    return OrsEnvironments.from_settings({**SETTINGS, "url": url, **changes})


def reader(url, **changes):
    return OrsReader.from_settings({**SETTINGS, "url": url, **changes}, [])


def play(server, body, *, task=TASK, **changes):
    """What `body` makes of an instance, which is released afterwards."""

    async def played(url):
        where = environments(url, **changes)
        instance = await where.create(task, episode_id="e1", seed=1)
        try:
            return await body(instance)
        finally:
            await instance.release()
            await instance.release()
            await where.close()

    with served(server.app) as url:
        return asyncio.run(played(url))


async def failure(instance):
    with pytest.raises(EnvServiceError) as caught:
        await instance.step(SUBMIT)
    return str(caught.value)


async def one_step(instance):
    return await instance.step(SUBMIT)


def test_an_episode_is_a_session_that_ends_with_it():
    server = OrsStandIn(lambda body: tool_result("right", 1.0, finished=True))

    async def body(instance):
        assert instance.messages == [{"role": "user", "content": "2 + 3?"}]
        assert instance.tools[0]["function"]["parameters"]["type"] == "object"
        step = await instance.step(SUBMIT)
        assert step.messages == [
            {"role": "tool", "content": "right", "name": "submit", "tool_call_id": "c0"}
        ]
        assert (step.reward, step.terminated, step.info) == (1.0, True, {"n": 1})
        return await instance.evaluate()

    assert play(server, body) == 1.0
    assert server.created == [{"env_name": "sums", "split": "train", "index": 1}]
    assert server.calls == [{"name": "submit", "input": {"answer": 5}}]
    assert server.ended == ["/delete s1", "/delete_session s1"]


def test_calls_of_one_message_are_made_in_order_until_the_end():
    rewards = {"look": 0.5, "submit": 0.25}
    server = OrsStandIn(
        lambda body: tool_result(
            body["name"], rewards.get(body["name"]), finished=body["name"] == "submit"
        )
    )

    async def body(instance):
        calls = calling(
            ("look", "{}"), ("wait", None), ("look", "[1"), ("submit", {}), ("late", {})
        )
        step = await instance.step(calls)
        assert [message["content"] for message in step.messages] == [
            "look",
            "wait",
            "error: the arguments of look must be one JSON object",
            "submit",
        ]
        assert (step.reward, step.terminated) == (0.75, True)
        assert "had ended" in await failure(instance)
        return await instance.evaluate(), await instance.evaluate(sparse=True)

    assert play(server, body) == (0.75, 0.0)
    assert [call["name"] for call in server.calls] == ["look", "wait", "submit"]


@pytest.mark.parametrize("arguments", ["[" * 100_000, '{"a": NaN}', "5", "{"])
def test_arguments_that_are_no_object_reach_no_server(arguments):
    server = OrsStandIn()

    async def body(instance):
        return await instance.step(calling(("submit", arguments)))

    assert "JSON object" in play(server, body).messages[0]["content"]
    assert server.calls == []


def test_half_of_a_character_reaches_the_server():
    server = OrsStandIn()

    async def body(instance):
        await instance.step(calling(("submit", r'{"a": "\ud83d"}')))

    play(server, body)
    assert server.calls == [{"name": "submit", "input": {"a": "\ud83d"}}]


def test_plain_text_is_answered_with_the_tools_that_there_are():
    server = OrsStandIn()

    async def body(instance):
        return await instance.step({"role": "assistant", "content": "five"})

    step = play(server, body)
    assert "submit" in step.messages[0]["content"]
    assert (step.reward, step.terminated, server.calls) == (None, False, [])


def test_a_call_that_the_environment_refuses_is_an_observation():
    refusal = [event("task_id", "t1"), event("end", json.dumps({"ok": False, "error": "no such"}))]
    step = play(OrsStandIn(lambda body: refusal), one_step)
    assert step.messages[0]["content"] == "error: no such"
    assert step.reward is None


def test_a_tool_that_raises_fails_the_episode_and_not_the_session():
    streams = [
        [event("task_id", "t1"), event("error", "division by zero")],
        tool_result("fine"),
    ]
    server = OrsStandIn(lambda body: streams.pop(0))

    async def body(instance):
        assert "division by zero" in await failure(instance)
        return (await instance.step(SUBMIT)).messages[0]["content"]

    assert play(server, body) == "fine"


def test_a_stream_that_is_lost_is_taken_up_again_and_acts_once():
    server = OrsStandIn(
        lambda body: [event("task_id", "t1")],
        resumed=lambda task_id: tool_result("once", 1.0, finished=True),
    )
    assert play(server, one_step).reward == 1.0
    assert [call.get("task_id") for call in server.calls] == [None, "t1"]


def test_a_stream_that_is_lost_before_its_name_is_not_asked_for_again():
    server = OrsStandIn(lambda body: [b": ping\r\n\r\n"])

    async def body(instance):
        assert "not asked for again" in await failure(instance)
        assert "session is gone" in await failure(instance)

    play(server, body)
    assert len(server.calls) == 1


def test_a_slow_call_names_what_was_waited_for():
    server = OrsStandIn(lambda body: [event("task_id", "t1"), 5.0, *tool_result("late")])

    async def body(instance):
        told = await failure(instance)
        assert "'submit'" in told
        assert "task_reader.ors.timeout_seconds" in told
        assert "session is gone" in await failure(instance)

    play(server, body, timeout_seconds=0.4)


def test_a_server_that_is_still_starting_is_waited_for():
    server = OrsStandIn(num_starting=2)

    async def body(instance):
        return instance.messages[0]["content"]

    assert play(server, body) == "2 + 3?"


def test_a_server_without_tools_of_tasks_has_those_of_the_environment():
    async def body(instance):
        return [tool["function"]["name"] for tool in instance.tools]

    assert play(OrsStandIn(has_task_tools=False), body) == ["submit"]


@pytest.mark.parametrize(
    ("stream", "named"),
    [
        ([event("task_id", "t1"), event("end", "<html>")], "<html>"),
        ([event("task_id", "t1"), event("end", '{"ok": true}')], "'ok': True"),
        (tool_result("x", float("inf")), "reward inf"),
    ],
)
def test_an_answer_that_is_not_of_the_standard_is_a_failure(stream, named):
    assert named in play(OrsStandIn(lambda body: stream), failure)


def test_a_long_observation_arrives_whole():
    text = "é\u2028 " * 3_000_000
    step = play(OrsStandIn(lambda body: tool_result(text)), one_step)
    assert step.messages[0]["content"] == text


@pytest.mark.parametrize(
    ("server", "named"),
    [
        (OrsStandIn(create_status=400), "HTTP 400: Invalid index"),
        (OrsStandIn(prompt={"text": "x"}), "the prompt"),
        (OpenEnvStandIn(lambda message: None), "HTTP 404"),
    ],
)
def test_an_environment_that_cannot_be_had_says_why_and_leaves_no_session(server, named):
    async def created(url):
        where = environments(url)
        try:
            await where.create(TASK, episode_id="e1", seed=1)
        finally:
            await where.close()

    with served(server.app) as url, pytest.raises(EnvServiceError, match=named):
        asyncio.run(created(url))
    if isinstance(server, OrsStandIn):
        assert server.ended == ["/delete s1", "/delete_session s1"]


def test_a_server_that_does_not_run_is_named():
    async def created():
        await environments(CLOSED_PORT_URL).create(TASK, episode_id="e1", seed=1)

    with pytest.raises(EnvServiceError, match=r"a session.*ors\.url"):
        asyncio.run(created())
    with pytest.raises(TaskReadError, match=r"ors\.url"):
        reader(CLOSED_PORT_URL).get_training_tasks()


def test_a_missing_address_is_a_setting_that_is_wrong():
    with pytest.raises(ConfigError, match=r"task_reader\.ors\.url"):
        reader(None)


def test_tasks_are_places_in_a_split(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "let-me-in")
    server = OrsStandIn()
    with served(server.app) as url:
        tasks = reader(url, token_env="MY_TOKEN").get_training_tasks()
        assert reader(url).get_validation_tasks() == []
        with pytest.raises(TaskReadError, match=r"'no'.*train"):
            reader(url, validation_split="no").get_validation_tasks()
    assert tasks[1] == TASK
    assert server.keys == {"let-me-in", None}


def test_a_server_without_tasks_is_none_of_the_standard():
    server = OpenEnvStandIn(lambda message: None)
    with served(server.app) as url, pytest.raises(TaskReadError, match="no list of tasks"):
        reader(url).get_training_tasks()


def test_events_are_read_from_any_pieces_of_their_bytes():
    whole = event("chunk", " é\u2028x") + b": ping\n\ndata: plain\n\nevent: cut off"

    async def read(size):
        async def pieces():
            for start in range(0, len(whole), size):
                yield whole[start : start + size]

        return [found async for found in server_events(pieces())]

    for size in (1, 3, len(whole)):
        assert asyncio.run(read(size)) == [
            ServerEvent(name="chunk", data=" é\u2028x"),
            ServerEvent(name="message", data="plain"),
        ]
