"""Our client of OpenEnv: sessions, actions by the schema of a server, and what goes wrong."""

import asyncio
import sys

import pytest

from astuner.env_service.openenv import OpenEnvEnvironments
from astuner.env_service.openenv_forms import (
    ActionForm,
    text_of_observation,
    text_of_refusal,
    text_of_result,
)
from astuner.env_service.tool_calls import AskedCall
from astuner.errors import ConfigError, EnvServiceError, TaskReadError
from astuner.task_reader.openenv import OpenEnvReader
from astuner.types import Task
from tests.remote_servers import CLOSED_PORT_URL, OpenEnvStandIn, observed, refused, served

pytest.importorskip("websockets")

SETTINGS = {
    "url": None,
    "env": None,
    "training_split": "train",
    "validation_split": None,
    "num_tasks": 3,
    "num_validation_tasks": 0,
    "token_env": "NO_SUCH_TOKEN",
    "options": {},
    "timeout_seconds": 20.0,
}
TASK = Task(main_query="", task_id="seed-7", metadata={"seed": 7})


def say(text):
    return {"role": "assistant", "content": text}


def ask_for(name, arguments, call_id="c1"):
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def environments(url, **changes):
    return OpenEnvEnvironments.from_settings({**SETTINGS, "url": url, **changes})


def reader(url, **changes):
    return OpenEnvReader.from_settings({**SETTINGS, "url": url, **changes}, [])


def play(server, body, *, task=TASK, **changes):
    """What `body` makes of an instance, which is released afterwards."""

    async def played(url):
        instance = await environments(url, **changes).create(task, episode_id="e1", seed=1)
        try:
            return await body(instance)
        finally:
            await instance.release()
            await instance.release()

    with served(server.app) as url:
        return asyncio.run(played(url))


def answering(*steps):
    """Each step of the agent is answered with the next of these."""
    left = list(steps)
    return OpenEnvStandIn(
        lambda message: observed("Go.") if message["type"] == "reset" else left.pop(0)
    )


async def first_failure(instance, text="x"):
    with pytest.raises(EnvServiceError) as caught:
        await instance.step(say(text))
    return str(caught.value)


def test_an_episode_is_a_session_of_its_own_worth_the_sum_of_its_rewards():
    server = answering(observed("warm", 0.25), observed("found", 0.5, done=True))

    async def body(instance):
        assert instance.messages == [{"role": "user", "content": "Go."}]
        first = await instance.step(say("left"))
        last = await instance.step(say("right"))
        assert (first.messages[0]["content"], first.reward, first.terminated) == (
            "warm",
            0.25,
            False,
        )
        assert (last.reward, last.terminated, last.truncated) == (0.5, True, False)
        return await instance.evaluate(), await instance.evaluate(sparse=True)

    assert play(server, body, options={"size": 4}) == (0.75, 0.0)
    assert server.received == [
        {"type": "reset", "data": {"size": 4, "seed": 7, "episode_id": "e1"}},
        {"type": "step", "data": {"message": "left"}},
        {"type": "step", "data": {"message": "right"}},
    ]
    assert server.num_ended == 1


def test_an_episode_begins_with_a_message_also_where_nothing_is_told():
    silent = {"type": "observation", "data": {"observation": {}, "reward": None, "done": False}}

    async def body(instance):
        return [message["content"] for message in instance.messages]

    assert play(OpenEnvStandIn(lambda message: silent), body) == [
        "The environment says nothing yet."
    ]


def test_a_task_of_a_list_is_told_to_the_reset():
    server = answering()
    task = Task(main_query="", task_id="t", metadata={"split": "train", "index": 2})

    async def body(instance):
        return None

    play(server, body, task=task)
    told = server.received[0]["data"]
    assert told == {"seed": 1, "episode_id": "e1", "split": "train", "index": 2}


def test_the_token_goes_with_every_request(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "let-me-in")
    server = answering()

    async def body(instance):
        return None

    play(server, body, token_env="MY_TOKEN")
    assert [told.get("authorization") for told in server.headers] == ["Bearer let-me-in"] * 2


def test_a_token_with_more_in_it_is_not_shown(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "Bearer abc")
    with pytest.raises(ConfigError, match="MY_TOKEN") as caught:
        environments("http://127.0.0.1:1", token_env="MY_TOKEN")
    assert "abc" not in str(caught.value)


NUMBER = {"properties": {"column": {"type": "integer"}}, "required": ["column"]}
MOVE = {
    "$defs": {"Move": {"enum": ["up", "down"], "type": "string"}},
    "properties": {"move": {"$ref": "#/$defs/Move"}, "metadata": {"type": "object"}},
    "required": ["move"],
}
CODE = {
    "properties": {"code": {"type": "string"}, "timeout": {"type": "number", "default": 3}},
    "required": ["code"],
}
SHOT = {
    "properties": {
        "x": {"type": "integer"},
        "y": {"type": "integer"},
        "type": {"const": "shot", "type": "string"},
    },
    "required": ["x", "y", "type"],
}
NOTE = {"properties": {"note": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}


@pytest.mark.parametrize(
    ("schema", "text", "action"),
    [
        (MOVE, " up\n", {"move": "up"}),
        (NOTE, '{"note": "x"}', {"note": '{"note": "x"}'}),
        (NUMBER, " 3 ", {"column": 3}),
        (CODE, "print(1)", {"code": "print(1)"}),
        (CODE, "So:\n```python\nprint(1)\n```\nDone.", {"code": "print(1)\n"}),
        (CODE, '{"code": "print(1)", "timeout": 9}', {"code": "print(1)", "timeout": 9}),
        (CODE, '{"a": 1}', {"code": '{"a": 1}'}),
        (SHOT, '{"x": 1, "y": 2}', {"type": "shot", "x": 1, "y": 2}),
        (SHOT, 'Fire!\n```json\n{"x": 1, "y": 2}\n```', {"type": "shot", "x": 1, "y": 2}),
    ],
)
def test_an_action_is_what_the_schema_has_room_for(schema, text, action):
    assert ActionForm.of(schema).action_of_text(text) == action


@pytest.mark.parametrize(
    ("schema", "text", "named"),
    [
        (NUMBER, "the third", "column (integer, required)"),
        (SHOT, "at B4", "x (integer, required); y (integer, required)"),
        (SHOT, "[1, 2]", "one JSON object"),
        (SHOT, '{"x": NaN, "y": 1}', "one JSON object"),
        (NUMBER, "[" * 100_000, "column"),
    ],
)
def test_a_text_that_is_no_action_tells_the_agent_what_one_is(schema, text, named):
    with pytest.raises(ValueError, match="Nothing was done") as caught:
        ActionForm.of(schema).action_of_text(text)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "action"),
    [
        ({"properties": {"metadata": {}}}, {"type": "call_tool"}),
        (
            {
                "properties": {
                    "tool_name": {"type": "string"},
                    "arguments": {"type": "object"},
                    "type": {"const": "call_tool"},
                }
            },
            {"type": "call_tool"},
        ),
        ({"properties": {"tool_name": {"type": "string"}, "arguments": {"type": "object"}}}, {}),
    ],
)
def test_a_tool_call_goes_to_where_the_schema_has_it(schema, action):
    form = ActionForm.of(schema)
    assert form.takes_calls
    call = AskedCall(name="add", arguments={"a": 1}, call_id=None)
    assert form.action_of_call(call) == {**action, "tool_name": "add", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    ("observation", "text"),
    [
        ({"text": "a door", "metadata": {"n": 1}}, "a door"),
        ({"text": "a door", "hint": None}, "a door"),
        ({"stdout": "1", "exit_code": 0}, '{"stdout": "1", "exit_code": 0}'),
        ({"metadata": {"question": "2 + 3"}}, '{"question": "2 + 3"}'),
        ({"board": ["é"]}, '{"board": ["é"]}'),
        ({}, ""),
    ],
)
def test_an_agent_reads_the_text_of_an_observation_or_all_its_fields(observation, text):
    assert text_of_observation(observation) == text


@pytest.mark.parametrize(
    ("observation", "text"),
    [
        ({"result": {"content": [{"type": "text", "text": "5"}], "data": 5}}, "5"),
        ({"result": {"content": [{"type": "image", "mimeType": "image/png"}]}}, "[image/png]"),
        ({"result": [1, 2]}, "[1, 2]"),
        ({"result": "five"}, "five"),
        ({"result": None, "error": {"error_type": "timeout", "message": "late"}}, "error: late"),
        ({"board": "x.o"}, "x.o"),
    ],
)
def test_the_answer_of_a_tool_is_its_text(observation, text):
    assert text_of_result(observation) == text


def test_an_action_that_the_server_refuses_is_an_observation():
    errors = [{"loc": ["message"], "msg": "too short"}]
    server = answering(refused("VALIDATION_ERROR", errors=errors), observed("ok", 1.0, done=True))

    async def body(instance):
        step = await instance.step(say("x"))
        assert (step.reward, step.terminated) == (None, False)
        assert "message: too short" in step.messages[0]["content"]
        return (await instance.step(say("y"))).reward

    assert play(server, body) == 1.0
    assert "no" in text_of_refusal({"message": "no"})


def test_an_environment_with_tools_is_acted_in_by_calls():
    def script(message):
        if message["type"] == "reset":
            return observed("2 + 3?")
        if message["data"] == {"type": "list_tools"}:
            tools = [{"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}]
            return {"type": "observation", "data": {"observation": {"tools": tools}}}
        result = {"tool_name": message["data"]["tool_name"], "result": "5", "error": None}
        is_last = message["data"]["tool_name"] == "submit"
        data = {"observation": result, "reward": 1.0 if is_last else None, "done": is_last}
        return {"type": "observation", "data": data}

    server = OpenEnvStandIn(script, schema={"action": {"properties": {}}})

    async def body(instance):
        assert [tool["function"]["name"] for tool in instance.tools] == ["add"]
        idle = await instance.step(say("five"))
        assert "add" in idle.messages[0]["content"]
        calls = [
            ask_for("add", '{"a": 2}', "c1"),
            ask_for("add", "[2", "c2"),
            ask_for("submit", {}, "c3"),
            ask_for("add", {}, "c4"),
        ]
        step = await instance.step({**say(""), "tool_calls": calls})
        assert [message["tool_call_id"] for message in step.messages] == ["c1", "c2", "c3"]
        assert step.messages[0] == {
            "role": "tool",
            "content": "5",
            "name": "add",
            "tool_call_id": "c1",
        }
        assert "JSON object" in step.messages[1]["content"]
        return step.reward, step.terminated

    assert play(server, body) == (1.0, True)
    assert [message["data"].get("tool_name") for message in server.received[2:]] == [
        "add",
        "submit",
    ]


def test_an_environment_that_fails_fails_the_episode_and_not_the_session():
    server = answering(refused("EXECUTION_ERROR", "division by zero"), observed("fine"))

    async def body(instance):
        assert "division by zero" in await first_failure(instance)
        return (await instance.step(say("y"))).messages[0]["content"]

    assert play(server, body) == "fine"


def test_a_connection_that_is_lost_in_mid_step_never_acts_twice():
    server = answering(None)

    async def body(instance):
        assert "not sent again" in await first_failure(instance)
        assert "connection is gone" in await first_failure(instance)

    play(server, body)
    assert [message["type"] for message in server.received] == ["reset", "step"]


def test_a_slow_answer_names_what_was_waited_for_and_is_no_answer_to_the_next_question():
    server = answering("nothing", observed("late"))

    async def body(instance):
        told = await first_failure(instance)
        assert "the observation of step 1" in told
        assert "task_reader.openenv.timeout_seconds" in told
        assert "connection is gone" in await first_failure(instance)

    play(server, body, timeout_seconds=0.3)


def test_a_step_that_is_given_up_leaves_no_answer_for_the_next_one():
    server = answering("nothing", observed("late"))

    async def body(instance):
        step = asyncio.create_task(instance.step(say("x")))
        while len(server.received) < 2:
            await asyncio.sleep(0.01)
        step.cancel()
        await asyncio.gather(step, return_exceptions=True)
        assert "connection is gone" in await first_failure(instance)

    play(server, body)


def test_steps_at_once_are_taken_one_after_the_other():
    server = OpenEnvStandIn(lambda message: observed(str(message["data"].get("message"))))

    async def body(instance):
        steps = await asyncio.gather(*(instance.step(say(str(n))) for n in range(5)))
        return [step.messages[0]["content"] for step in steps]

    assert play(server, body) == ["0", "1", "2", "3", "4"]


def test_episodes_wait_while_the_server_is_full(caplog):
    full = [refused("CAPACITY_REACHED", max_sessions=1)] * 2
    server = OpenEnvStandIn(lambda message: full.pop() if full else observed("Go."))

    async def body(instance):
        return instance.messages[0]["content"]

    assert play(server, body) == "Go."
    assert [record.getMessage() for record in caplog.records if "full" in record.message] != []
    assert server.num_ended == 3


def test_an_episode_that_stops_waiting_for_a_full_server_leaves_nothing_behind():
    server = OpenEnvStandIn(lambda message: refused("CAPACITY_REACHED"))

    async def given_up(url):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await environments(url).create(TASK, episode_id="e1", seed=1)

    with served(server.app) as url:
        asyncio.run(given_up(url))
    assert server.num_ended == len(server.received)


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("<html>", "<html>"),
        ("[1]", "[1]"),
        ({"type": "observation"}, '"data"'),
        ({"type": "observation", "data": {"reward": 1}}, "an observation"),
        (observed("x", float("nan")), "reward nan"),
        (observed("x", 10**400), "a reward is a finite number"),
        ({"type": "observation", "data": {"observation": {}, "reward": "much"}}, "'much'"),
        ({"type": "observation", "data": {"observation": "text"}}, "an observation"),
        ("[" * 100_000, "[[["),
    ],
)
def test_an_answer_that_is_not_of_the_protocol_is_a_failure(answer, named):
    async def body(instance):
        return await first_failure(instance)

    assert named in play(answering(answer), body)


def test_a_long_observation_arrives_whole():
    async def body(instance):
        return (await instance.step(say("x"))).messages[0]["content"]

    assert play(answering(observed("é" * 10_000_000)), body) == "é" * 10_000_000


def test_a_step_behind_the_end_is_not_sent():
    server = answering(observed("over", 1.0, done=True), observed("again", 1.0))

    async def body(instance):
        await instance.step(say("x"))
        assert "had ended" in await first_failure(instance)
        return await instance.evaluate()

    assert play(server, body) == 1.0
    assert len(server.received) == 2


def test_steps_without_a_reward_have_earned_nothing():
    async def body(instance):
        assert (await instance.step(say("x"))).reward is None
        return await instance.evaluate()

    assert play(answering(observed("hm")), body) == 0.0


@pytest.mark.parametrize("schema", ["<html>", {"observation": {}}, {"action": "text"}])
def test_a_server_of_something_else_is_named(schema):
    server = OpenEnvStandIn(lambda message: observed("Go."), schema=schema)

    async def created(url):
        await environments(url).create(TASK, episode_id="e1", seed=1)

    with served(server.app) as url, pytest.raises(EnvServiceError, match="/schema"):
        asyncio.run(created(url))


def test_a_reset_that_is_answered_in_another_form_is_a_failure():
    text = {"type": "observation", "data": {"observation": "Go."}}
    server = OpenEnvStandIn(lambda message: text)

    async def created(url):
        await environments(url).create(TASK, episode_id="e1", seed=1)

    with served(server.app) as url, pytest.raises(EnvServiceError, match="sees first"):
        asyncio.run(created(url))
    assert server.num_ended == 1


def test_an_environment_that_cannot_be_reset_is_a_failure_with_its_reason():
    server = OpenEnvStandIn(lambda message: refused("EXECUTION_ERROR", "no such level"))

    async def created(url):
        await environments(url).create(TASK, episode_id="e1", seed=1)

    with served(server.app) as url, pytest.raises(EnvServiceError, match="no such level"):
        asyncio.run(created(url))
    assert server.num_ended == 1


def test_a_server_that_does_not_run_is_named():
    async def created():
        await environments(CLOSED_PORT_URL).create(TASK, episode_id="e1", seed=1)

    with pytest.raises(EnvServiceError, match=r"openenv\.url"):
        asyncio.run(created())
    with pytest.raises(TaskReadError, match=r"openenv\.url"):
        reader(CLOSED_PORT_URL).get_training_tasks()


def test_a_released_instance_ends_the_step_that_is_under_way():
    server = answering("nothing")

    async def body(instance):
        step = asyncio.create_task(instance.step(say("x")))
        while len(server.received) < 2:
            await asyncio.sleep(0.01)
        await instance.release()
        with pytest.raises(EnvServiceError):
            await step

    play(server, body)


@pytest.mark.parametrize("url", [None, "", "localhost:8000", "ftp://x", "http://"])
def test_an_address_that_is_none_is_a_setting_that_is_wrong(url):
    with pytest.raises(ConfigError, match=r"task_reader\.openenv\.url"):
        environments(url)


def test_what_the_run_chooses_is_no_option():
    with pytest.raises(ConfigError, match="seed"):
        environments("http://127.0.0.1:1", options={"seed": 1})


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "websockets", None)
    with pytest.raises(ConfigError, match=r"astuner\[openenv\]"):
        environments("http://127.0.0.1:1")


def test_a_list_of_tasks_is_read_by_split_and_index():
    server = OpenEnvStandIn(lambda message: None, tasks={"train": 2, "test": 1})
    with served(server.app) as url:
        tasks = reader(url, env="maze").get_training_tasks()
        validation = reader(url, validation_split="test").get_validation_tasks()
    assert [(task.task_id, task.env_type, task.metadata) for task in tasks] == [
        ("train-0", "Maze", {"split": "train", "index": 0}),
        ("train-1", "Maze", {"split": "train", "index": 1}),
    ]
    assert [task.task_id for task in validation] == ["test-0"]


def test_a_server_without_a_list_has_tasks_by_seed():
    server = OpenEnvStandIn(lambda message: None)
    with served(server.app) as url:
        read = reader(url, num_validation_tasks=2)
        training, validation = read.get_training_tasks(), read.get_validation_tasks()
    assert [task.metadata["seed"] for task in training] == [0, 1, 2]
    assert [task.metadata["seed"] for task in validation] == [3, 4]


@pytest.mark.parametrize(
    ("tasks", "changes", "named"),
    [
        ({"train": 1}, {"env": "Chess"}, "'Chess'.*Maze"),
        ({"test": 1}, {}, "'train'.*test"),
        ({"train": 0}, {}, "0 tasks"),
    ],
)
def test_tasks_that_are_not_there_are_named(tasks, changes, named):
    server = OpenEnvStandIn(lambda message: None, tasks=tasks)
    with served(server.app) as url, pytest.raises(TaskReadError, match=named):
        reader(url, **changes).get_training_tasks()


def test_a_validation_split_needs_a_list_of_tasks():
    server = OpenEnvStandIn(lambda message: None)
    with served(server.app) as url, pytest.raises(TaskReadError, match="num_validation_tasks"):
        reader(url, validation_split="test").get_validation_tasks()
