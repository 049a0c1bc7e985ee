"""The environment server over real HTTP: its protocol, what it promises of steps, and who lives."""

import asyncio
import contextlib
import random
import re
import time
from pathlib import Path

import httpx
import pytest

from astuner.env_service.server.instance import Creation
from astuner.env_service.server.instances import Instances
from astuner.env_service.server.pool import EnvironmentPool
from astuner.env_service.server.serve import serve_environments
from astuner.env_service.server.world import World
from astuner.errors import ConfigError
from astuner.serving.refusal import Refusal
from tests.env_servers import EnvClient, env_server, settings, world

# clients of older services


class OldClient:
    """As clients of such services were written: each call three times, with pauses, and of the
    answer only what those services said."""

    def __init__(self, http: httpx.AsyncClient, *, pause_seconds: float) -> None:
        self._http = http
        self._pause_seconds = pause_seconds
        self.num_tries = 0

    async def _ask(self, route, **fields):
        body = {
            "env_type": "default",
            "task_id": None,
            "instance_id": None,
            "messages": {},
            "params": {},
            **fields,
        }
        for _ in range(3):
            self.num_tries += 1
            with contextlib.suppress(httpx.HTTPError):
                answer = await self._http.post(route, json=body)
                answer.raise_for_status()
                return answer.json()
            await asyncio.sleep(self._pause_seconds * random.Random(1).random())
        return {"success": False, "data": None}

    async def task_ids(self, env_type, split):
        told = await self._ask("/get_env_profile", env_type=env_type, params={"split": split})
        return told["data"] if told["success"] else []

    async def create(self, env_type, task_id, instance_id=None):
        told = await self._ask(
            "/create", env_type=env_type, task_id=task_id, instance_id=instance_id
        )
        return told["data"]

    async def step(self, instance_id, action):
        told = await self._ask("/step", instance_id=instance_id, messages=action)
        data = told["data"]
        return data["state"][0], data["reward"], data["is_terminated"]

    async def evaluate(self, instance_id):
        told = await self._ask("/evaluate", instance_id=instance_id, params={"sparse": True})
        return told["data"]

    async def info(self, instance_id):
        return (await self._ask("/get_info", instance_id=instance_id))["data"]

    async def release(self, instance_id):
        return (await self._ask("/release", instance_id=instance_id))["success"]


async def _old_episode():
    async with env_server() as client:
        old = OldClient(client.http, pause_seconds=0.01)
        assert (await client.http.get("/healthz")).text == "OK"
        (first, _) = await old.task_ids("world", "train")
        made = await old.create("world", first)
        instance_id = made["info"]["instance_id"]
        assert made["state"] == [{"role": "user", "content": "hello"}]
        state, reward, is_over = await old.step(instance_id, {"role": "assistant", "content": "x"})
        assert (state["content"], reward, is_over) == ("1: x", 0.5, False)
        state, reward, is_over = await old.step(
            instance_id, {"role": "assistant", "content": "end"}
        )
        assert is_over is True
        assert await old.evaluate(instance_id) == 2.0
        assert (await old.info(instance_id))["num_steps"] == 2
        assert [await old.release(name) for name in (instance_id, instance_id, "never")] == [
            True,
            True,
            False,
        ]
        assert old.num_tries == 9  # none had to be made again


def test_a_client_of_older_services_plays_an_episode() -> None:
    asyncio.run(_old_episode())


async def _impatient_steps():
    """Their client gives up on them and sends them again, naming no index, as old clients do."""
    async with env_server() as client:
        instance_id = await client.create()

        async def give_up(body):
            with pytest.raises(httpx.TimeoutException):
                await client.http.post("/step", json=body, timeout=0.1)

        under_way = client.step_body(instance_id, "sleep 1")
        await give_up(under_way)
        told = await client.data("/step", **under_way)
        assert told["state"][0]["content"] == "1: sleep 1"
        behind = client.step_body(instance_id, "sleep 0.5")
        await give_up(behind)
        while (await client.data("/get_info", instance_id=instance_id))["num_steps"] < 2:
            await asyncio.sleep(0.02)
        for count in (2, 3):  # the second one is a new one, since the first was answered
            told = await client.data("/step", **behind)
            assert told["state"][0]["content"] == f"{count}: sleep 0.5"


def test_a_step_without_an_index_that_its_client_did_not_wait_for_acts_once() -> None:
    asyncio.run(_impatient_steps())


# steps


async def _retried_steps():
    async with env_server() as client:
        instance_id = await client.create()
        body = client.step_body(instance_id, "sleep 0.2", 0)
        answers = await asyncio.gather(*(client.data("/step", **body) for _ in range(4)))
        answers.append(await client.data("/step", **body))
        assert {str(answer) for answer in answers} == {str(answers[0])}
        assert answers[0]["info"] == {
            "instance_id": instance_id,
            "step_index": 0,
            "environment": {"length": 9},
        }
        assert (await client.step(instance_id, "x", 1))["state"][0]["content"] == "2: x"
        assert (await client.step_error(instance_id, "y", 1))["code"] == "idempotency_key_reused"
        assert (await client.step_error(instance_id, "sleep 0.2", 0))["code"] == "step_out_of_order"
        assert (await client.step_error(instance_id, "z", 3))["code"] == "step_out_of_order"
        assert await client.data("/evaluate", instance_id=instance_id) == 2.0


def test_a_step_that_is_sent_again_acts_once_and_gives_the_same_answer() -> None:
    asyncio.run(_retried_steps())


async def _steps_by_key():
    async with env_server() as client:
        instance_id = await client.create()

        async def step(text, key):
            body = client.step_body(instance_id, text)
            return await client.post("/step", **body, headers={"Idempotency-Key": key})

        told = [await step(text, key) for text, key in (("x", "k1"), ("x", "k1"), ("x", "k2"))]
        assert [answer.json()["data"]["info"]["step_index"] for answer in told] == [0, 0, 1]
        assert (await step("x", "k1")).json()["error"]["code"] == "step_out_of_order"
        assert (await step("y", "k2")).json()["error"]["code"] == "idempotency_key_reused"
        assert (await step("x", "k" * 300)).json()["error"]["code"] == "invalid_field"


def test_an_idempotency_key_does_as_well_as_an_index() -> None:
    asyncio.run(_steps_by_key())


async def _ends():
    async with env_server() as client:
        for text, is_terminated in (("end", True), ("limit", False)):
            instance_id = await client.create()
            told = await client.step(instance_id, text, 0)
            assert (told["is_terminated"], told["truncated"]) == (is_terminated, not is_terminated)
            error = await client.step_error(instance_id, "x", 1)
            assert (error["code"], error["retriable"]) == ("episode_over", False)
            assert await client.step(instance_id, text, 0) == told
            assert await client.data("/evaluate", instance_id=instance_id) == 1.0


def test_behind_the_end_no_step_acts_and_the_last_answer_can_still_be_had() -> None:
    asyncio.run(_ends())


async def _actions():
    async with env_server() as client:
        boxed = await client.create(action_preference="box")
        told = await client.step(boxed, r"I go \boxed{up}")
        assert told["state"][0]["content"] == "1: up"
        plain = await client.create()
        call = {"id": "1", "type": "function", "function": {"name": "say", "arguments": '{"a": 1}'}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        told = await client.data("/step", instance_id=plain, messages=message)
        assert told["state"][0]["content"] == "1:  say({'a': 1})"
        for garbage in ({"role": "assistant"}, {"content": 7}, {"content": "", "tool_calls": [1]}):
            error = await client.error("/step", instance_id=plain, messages=garbage)
            assert error["code"] == "invalid_action"
        assert (await client.step(plain, "on", 1))["state"][0]["content"] == "2: on"


def test_what_is_no_action_is_refused_and_the_instance_goes_on() -> None:
    asyncio.run(_actions())


# making and releasing


async def _creations():
    async with env_server() as client:
        asked = {"env_type": "world", "task_id": "a", "instance_id": "mine", "params": {"seed": 7}}
        answers = await asyncio.gather(*(client.data("/create", **asked) for _ in range(3)))
        assert answers[0] == answers[1] == answers[2]
        info = answers[0]["info"]
        assert (info["instance_id"], info["task_id"]) == ("mine", "a")
        assert info["environment"] == {"seed": 7, "options": {"task_id": "a"}}
        assert [tool["function"]["name"] for tool in info["tools"]] == ["say"]
        assert (await client.data("/get_info", instance_id="mine"))["tools"] == info["tools"]
        other = {**asked, "params": {"seed": 8}}
        assert (await client.error("/create", **other))["code"] == "instance_exists"
        await client.data("/release", instance_id="mine")
        assert (await client.error("/create", **asked))["code"] == "instance_released"
        assert (await client.step_error("mine", "x"))["code"] == "instance_released"


def test_an_instance_id_of_the_client_is_one_instance_however_often_it_is_asked_for() -> None:
    asyncio.run(_creations())


async def _capacity():
    async with env_server(capacity=2) as client:
        first, _ = [await client.create() for _ in range(2)]
        full = await client.post("/create", env_type="world", task_id="a")
        assert (full.status_code, full.headers["retry-after"]) == (503, "1")
        error = full.json()["error"]
        assert (error["code"], error["retriable"]) == ("at_capacity", True)
        await client.data("/release", instance_id=first)
        await client.create()


def test_a_full_server_says_when_to_ask_again() -> None:
    asyncio.run(_capacity())


async def _time_to_live():
    now = 0.0
    chosen = settings(ttl_seconds=100)
    pool = EnvironmentPool(world("EchoWorld"), chosen)
    instances = Instances({"world": pool}, chosen, clock=lambda: now)

    async def make(name, ttl_seconds):
        asked = Creation(
            env_type="world",
            task_id="a",
            seed=None,
            action_preference=None,
            options={},
            ttl_seconds=ttl_seconds,
        )
        await instances.create(asked, instance_id=name)

    try:
        await make("silent", 100)
        await make("heard", 100)
        await make("short", 10)
        for now in (20.0, 90.0, 110.0):  # noqa: B007  # the clock reads it
            instances.hear(["heard"])
            instances.expire()
        told = instances.hear(["silent", "heard", "short", "never"])
        assert told["alive"] == ["heard"]
        assert {name: why.code for name, why in told["gone"].items()} == {
            "silent": "instance_expired",
            "short": "instance_expired",
            "never": "unknown_instance",
        }
        told = []
        for _ in range(2):
            with pytest.raises(Refusal, match="nothing was heard of it for 100 s") as raised:
                instances.described("silent")
            told.append(raised.value)
        assert told[0] is not told[1]  # an error that is raised again and again grows
        await instances.release("silent")
    finally:
        await instances.close()
        await pool.close()
    assert instances.num_held == 0


def test_an_instance_of_which_nothing_is_heard_is_released() -> None:
    asyncio.run(_time_to_live())


async def _heartbeats():
    async with env_server() as client:
        instance_id = await client.create()
        told = await client.data("/heartbeat", instance_ids=[instance_id, "never"])
        assert told["alive"] == [instance_id]
        assert told["gone"]["never"]["code"] == "unknown_instance"
        assert (await client.error("/heartbeat"))["code"] == "missing_field"


def test_a_heartbeat_tells_which_instances_live() -> None:
    asyncio.run(_heartbeats())


async def _busy_release():
    async with env_server() as client:
        instance_id = await client.create()
        stepping = asyncio.create_task(client.step_error(instance_id, "sleep 30", 0))
        await _until_acting(client, instance_id)
        began = time.monotonic()
        await client.data("/release", instance_id=instance_id)
        assert (await stepping)["code"] == "instance_released"
        assert time.monotonic() - began < 20


async def _until_acting(client: EnvClient, instance_id: str) -> None:
    """The step has been taken: from here on another index is the next one."""
    while (await client.step_error(instance_id, "x", 5))["message"].find("step 1") < 0:
        await asyncio.sleep(0.01)


def test_releasing_waits_for_no_step() -> None:
    asyncio.run(_busy_release())


# the class that the page shows


async def _shown(file):
    async with env_server(
        World(name="Guess", target=f"{file}->Guess", options={"largest": 3})
    ) as client:
        (first, *_) = await client.data("/get_env_profile", env_type="Guess")
        instance_id = await client.create(first, env_type="Guess", seed=1)
        told = [await client.step(instance_id, text) for text in ("I think", "1")]
        assert told[0]["state"][0]["content"] == "Write a number and nothing else."
        for guess in ("2", "3"):
            if not told[-1]["is_terminated"]:
                told.append(await client.step(instance_id, guess))
        assert told[-1]["is_terminated"]
        assert await client.data("/evaluate", instance_id=instance_id) == 1.0


def test_the_environment_that_the_page_shows_is_served_as_it_stands(tmp_path) -> None:
    page = Path(__file__).parent.parent / "docs" / "env_service.md"
    (shown,) = re.findall(r"```python\n# guess.py\n(.*?)```", page.read_text(), re.DOTALL)
    (tmp_path / "guess.py").write_text(shown)
    asyncio.run(_shown(tmp_path / "guess.py"))


BASED = """
from astuner.env_service.action import Action
from astuner.env_service.environment import Environment


class World(Environment):
    def reset(self, *, seed=None, options=None):
        return [{"role": "system", "content": "rules"}, {"role": "user", "content": "go"}], {}

    def step(self, action):
        return f"{type(action) is Action}", 1.0, True, False, {}
"""


async def _based(file):
    async with env_server(World(name="world", target=f"{file}->World")) as client:
        error = await client.error("/get_env_profile", env_type="world")
        assert error["message"].endswith("World has no list of tasks, so none of the split 'train'")
        made = await client.data("/create", env_type="world", task_id="a")
        assert [message["role"] for message in made["state"]] == ["system", "user"]
        told = await client.step(made["info"]["instance_id"], "x")
        assert told["state"][0]["content"] == "True"


def test_an_environment_may_be_derived_from_the_base_class(tmp_path) -> None:
    (tmp_path / "based.py").write_text(BASED)
    asyncio.run(_based(tmp_path / "based.py"))


# what is asked wrongly


async def _wrong_requests():
    async with env_server(max_body_bytes=10_000) as client:
        named = {"env_type": "world", "task_id": "a"}
        asked = {
            "no env_type": ("/create", {"task_id": "a"}),
            "no task": ("/create", {"env_type": "world"}),
            "no instance": ("/step", {"messages": {"content": "x"}}),
            "other environment": ("/create", {"env_type": "word", "task_id": "a"}),
            "other task": ("/create", {"env_type": "world", "task_id": "missing"}),
            "other split": ("/get_env_profile", {"env_type": "world", "params": {"split": "x"}}),
            "other instance": ("/evaluate", {"instance_id": "never"}),
            "seed": ("/create", {**named, "params": {"seed": "one"}}),
            "preference": ("/create", {**named, "params": {"action_preference": "xml"}}),
            "params": ("/create", {**named, "params": [1]}),
            "too long": ("/create", {**named, "params": {"options": {"x": "y" * 10_000}}}),
            "id": ("/create", {**named, "instance_id": "a\nb"}),
            "route": ("/reset", named),
        }
        found = {}
        for case, (route, body) in asked.items():
            answer = await client.post(route, **body)
            found[case] = (answer.status_code, answer.json()["error"]["code"])
            assert answer.headers["envservice-version"] == "2"
            assert answer.json()["detail"]
        assert found == {
            "no env_type": (400, "missing_field"),
            "no task": (400, "missing_field"),
            "no instance": (400, "missing_field"),
            "other environment": (404, "unknown_environment"),
            "other task": (404, "unknown_task"),
            "other split": (404, "unknown_split"),
            "other instance": (404, "unknown_instance"),
            "seed": (400, "invalid_field"),
            "preference": (400, "invalid_field"),
            "params": (400, "invalid_field"),
            "too long": (413, "request_too_large"),
            "id": (400, "invalid_field"),
            "route": (404, "not_found"),
        }
        for body in (b"", b"[1]", b"{", b"\xff", b'{"seed": NaN}', b"[" * 9000):
            answer = await client.http.post("/create", content=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_body")
        assert (await client.http.get("/create")).status_code == 405


def test_every_wrong_request_is_told_what_is_wrong_with_it() -> None:
    asyncio.run(_wrong_requests())


async def _tokens():
    async with env_server(token="secret") as client:
        assert (await client.http.get("/healthz")).text == "OK"
        assert (await client.error("/create", env_type="world", task_id="a"))["code"] == (
            "invalid_token"
        )
        wrong = {"Authorization": "Bearer other"}
        answer = await client.post("/create", env_type="world", task_id="a", headers=wrong)
        assert answer.status_code == 401
        client.http.headers["Authorization"] = "Bearer secret"
        await client.create()


def test_a_server_with_a_token_answers_whoever_shows_it() -> None:
    asyncio.run(_tokens())


async def _other_hosts():
    async with env_server() as client:
        named = {"host": "evil.example"}
        answer = await client.post("/create", env_type="world", task_id="a", headers=named)
        assert answer.status_code == 421


def test_without_a_token_no_page_of_a_browser_gets_in() -> None:
    asyncio.run(_other_hosts())


async def _serve(*worlds, **changes):
    async with serve_environments(worlds, settings(**changes)):
        pass


def test_a_server_that_cannot_be_is_refused_before_it_listens(tmp_path) -> None:
    echo = world("EchoWorld")
    with pytest.raises(ConfigError, match="ENV_SERVICE_TOKEN"):
        asyncio.run(_serve(echo, host="0.0.0.0"))
    with pytest.raises(ConfigError, match="two environments are called world"):
        asyncio.run(_serve(echo, echo))
    with pytest.raises(ConfigError, match=r"has no class OtherWorld; its classes are .*EchoWorld"):
        asyncio.run(_serve(world("OtherWorld")))
    with pytest.raises(ConfigError, match="unexpected keyword argument 'size'"):
        asyncio.run(_serve(world("EchoWorld", size=1)))
    with pytest.raises(ConfigError, match="its options are no JSON"):
        asyncio.run(_serve(world("EchoWorld", greeting=tmp_path)))
    with pytest.raises(ConfigError, match="put them into a file"):
        asyncio.run(_serve(world("EchoWorld", greeting="x" * 200_000)))
    with pytest.raises(ConfigError, match="--capacity 1000000"):
        asyncio.run(_serve(echo, capacity=1_000_000))
    (tmp_path / "broken.py").write_text("import not_there_at_all\n")
    broken = World(name="w", target="broken.py->World", search_dirs=(tmp_path,))
    with pytest.raises(ConfigError, match=r"broken.py:1: ModuleNotFoundError"):
        asyncio.run(_serve(broken))
