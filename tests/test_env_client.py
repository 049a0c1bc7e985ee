"""The client of environment services, against a server that behaves as older ones do.

Over real HTTP. A lost answer is never made up, and nothing that acts is sent twice.
"""

import asyncio
import json
import pickle
import socket
import threading
import time

import pytest

import astuner.env_service.exchange as exchange_module
from astuner.env_service.client import EnvServiceEnvironments
from astuner.env_service.service_address import EnvServiceAddress
from astuner.errors import ConfigError, EnvServiceError
from astuner.types import Task
from tests.old_env_server import (
    Sent,
    acts_and_breaks,
    always,
    breaks,
    data,
    old_env_server,
    refused,
)

TASK = Task(main_query="", task_id="a_1", env_type="counting")
SAYS_DONE = {"role": "assistant", "content": "done"}


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr(exchange_module, "_FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def server():
    with old_env_server() as server:
        yield server


def section(url, **changes):
    return {
        "env_type": "counting",
        "env_url": url,
        "env_action_preference": "text",
        "token_env": "ENV_SERVICE_TOKEN",
        "options": {},
        "training_split": "train",
        "validation_split": None,
        "timeout_seconds": 5.0,
        **changes,
    }


async def create(server, task=TASK, **changes):
    environments = EnvServiceEnvironments.from_settings(section(server.url, **changes))
    return await environments.create(task, episode_id="e", seed=7)


def play(server, use, **changes):
    """What `use` returns of an instance, which is released behind it."""

    async def run():
        instance = await create(server, **changes)
        try:
            return await use(instance)
        finally:
            await instance.release()

    return asyncio.run(run())


async def steps_once(instance):
    return await instance.step(SAYS_DONE)


def failure_of(server, use=steps_once, **changes):
    with pytest.raises(EnvServiceError) as raised:
        play(server, use, **changes)
    return str(raised.value)


def test_an_episode_on_an_old_server(server):
    async def use(instance):
        first = await instance.step({"role": "assistant", "content": "one"})
        early = await instance.evaluate(), await instance.evaluate(sparse=True)
        last = await instance.step(SAYS_DONE)
        return instance.messages, first, early, last, await instance.evaluate()

    messages, first, early, last, evaluation = play(server, use)
    assert [m["role"] for m in messages] == ["system", "user"]
    assert messages[1]["content"] == "Play a_1."
    assert (first.messages[0]["content"], first.reward, first.terminated) == (
        "1 actions, 3 characters",
        0.0,
        False,
    )
    assert early == (0.25, 0.0)
    assert (last.reward, last.terminated, last.truncated) == (1.0, True, False)
    assert evaluation == 1.0
    assert server.worlds == {} and len(server.released) == 1


@pytest.mark.parametrize(("takes_ids", "tells_ids"), [(True, False), (False, True), (True, True)])
def test_an_instance_goes_by_the_name_that_its_server_gives(takes_ids, tells_ids):
    with old_env_server(takes_ids=takes_ids, tells_ids=tells_ids) as server:
        assert play(server, steps_once).terminated
        assert server.worlds == {}


def test_options_of_the_environment_reach_an_old_server_as_its_own(server):
    async def use(instance):
        return server.worlds[instance.instance_id].params

    assert play(server, use, options={"map_size": 4}) == {"map_size": 4}


# A lost answer


@pytest.mark.parametrize("fault", [acts_and_breaks, breaks])
@pytest.mark.parametrize("route", ["step", "evaluate", "create"])
def test_what_acts_is_sent_to_an_old_server_once(server, route, fault):
    server.faults[route].append(fault)

    async def use(instance):
        await instance.step(SAYS_DONE)
        return await instance.evaluate()

    message = failure_of(server, use)
    assert "the connection broke before the answer came" in message
    assert f"environment counting at {server.url}, task a_1" in message
    assert server.routes().count(route) == 1
    assert server.worlds == {}


def test_an_answer_that_comes_too_late_is_lost_as_well(server):
    def late(act):
        act()
        released.wait(60)

    released = threading.Event()
    server.faults["step"].append(late)
    try:
        message = failure_of(server, timeout_seconds=0.2)
    finally:
        released.set()
    assert "no answer within 0.2 s (task_reader.env_service.timeout_seconds)" in message
    assert server.routes().count("step") == 1


def test_a_server_that_is_told_to_release_is_told_again(server):
    server.faults["release"] += [acts_and_breaks, breaks]
    play(server, steps_once)
    assert server.routes().count("release") == 3


def test_nobody_at_the_address_is_said_with_what_to_do():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(EnvServiceError, match="nobody answers there") as raised:
            asyncio.run(create(type("Nobody", (), {"url": url})))
    assert "start one with `astuner env serve counting`" in str(raised.value)


# Answers that are none

NO_DATA = Sent(body=b'{"success": true}')
HTML = Sent(body=b"<html><body>Bad Gateway</body></html>", status=502, kind="text/html")
STEP = {"state": [{"role": "user", "content": "seen"}], "reward": 0.5, "is_terminated": False}


def step_with(**changes):
    return data({**STEP, **changes})


def step_without(name):
    return data({key: value for key, value in STEP.items() if key != name})


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        (refused("the world is gone"), "answered 200: the world is gone"),
        (HTML, "answered 502 with '<html><body>Bad Gateway</body></html>', which is not JSON"),
        (Sent(body=b""), "answered 200 with '', which is not JSON"),
        (Sent(body=b"[" * 100_000), "which is not JSON"),
        (Sent(body=b"[]"), "answered 200 with list, not with an object"),
        (NO_DATA, "answered with the fields ['success'], expected success: true and data"),
        (Sent(body=b'{"data": {}}'), "answered with the fields ['data'], expected success"),
        (Sent(body=b'{"success": 1, "data": {}}'), "expected success: true and data"),
        (data(None), "its data is None, expected an object"),
        (step_without("state"), "and no state"),
        (step_without("is_terminated"), "its is_terminated is None"),
        (step_with(is_terminated="no"), "its is_terminated is 'no'"),
        (step_with(reward="much"), "its reward is 'much', expected a finite number"),
        (step_with(reward=float("nan")), "its reward is nan, expected a finite number"),
        (step_with(reward=10**400), "expected a finite number"),
        (step_with(state=[3]), "a message of its state is 3"),
        (step_with(state=[{"role": "user", "content": 3}]), "a message of its state is"),
        (step_with(state="x" * (10 << 20)), "its answer is longer than 8 MiB"),
    ],
)
def test_an_answer_that_is_none_fails_the_step(server, sent, found):
    server.faults["step"].append(always(sent))
    message = failure_of(server)
    assert message.startswith(f"step 1 failed: environment counting at {server.url}, task a_1: ")
    assert found in message
    assert server.worlds == {}


@pytest.mark.parametrize(
    ("state", "messages"),
    [
        ("text", [{"role": "user", "content": "text"}]),
        ({"role": "tool", "content": "one"}, [{"role": "tool", "content": "one"}]),
        ({"content": None}, [{"role": "user", "content": ""}]),
        ([], []),
        (["a", {"role": "user", "content": "b"}], [
            {"role": "user", "content": "a"},
            {"role": "user", "content": "b"},
        ]),
    ],
)  # fmt: skip
def test_a_state_may_have_several_forms(server, state, messages):
    server.faults["step"].append(always(step_with(state=state)))
    assert list(play(server, steps_once).messages) == messages


def test_a_reward_may_be_missing_and_is_not_made_up(server):
    server.faults["step"].append(always(step_without("reward")))
    assert play(server, steps_once).reward is None


def test_of_a_traceback_the_error_alone_is_told(server):
    message = failure_of(server, task=TASK.model_copy(update={"task_id": "z_9"}))
    assert "answered 500: KeyError: 'task z_9 not found'" in message
    assert "Traceback" not in message and "\n" not in message


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        (data("good"), "its data is 'good', expected a finite number"),
        (data(None), "its data is None"),
        (data(float("inf")), "its data is inf"),
        (data(-(10**400)), "expected a finite number"),
        (refused("no such instance"), "answered 200: no such instance"),
    ],
)
def test_an_evaluation_that_is_no_number_is_never_zero(server, sent, found):
    server.faults["evaluate"].append(always(sent))

    async def use(instance):
        return await instance.evaluate()

    assert found in failure_of(server, use)


def test_an_error_of_a_server_has_its_code():
    error = {"code": "environment_died", "message": "signal 9", "retriable": False}
    body = {"success": False, "data": None, "detail": "signal 9", "error": error}

    with old_env_server() as server:
        server.faults["step"].append(always(Sent(body=json.dumps(body).encode(), status=500)))
        with pytest.raises(EnvServiceError) as raised:
            play(server, steps_once)
    again = pickle.loads(pickle.dumps(raised.value))
    assert (again.code, again.is_retriable, str(again)) == (
        "environment_died",
        False,
        str(raised.value),
    )


# Letting go


def test_releasing_twice_is_harmless(server):
    async def use(instance):
        await instance.release()

    play(server, use)
    assert server.routes().count("release") == 1


def test_nothing_is_asked_of_an_instance_that_was_released(server):
    async def use(instance):
        await instance.release()
        await instance.step(SAYS_DONE)

    assert "the instance was released" in failure_of(server, use)


def test_a_creation_that_nobody_waits_for_any_more_is_undone(server):
    begun = threading.Event()

    def slow(act):
        sent = act()
        begun.set()
        time.sleep(0.2)
        return sent

    server.faults["create"].append(slow)

    async def run():
        creating = asyncio.create_task(create(server))
        await asyncio.to_thread(begun.wait, 5)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating

    asyncio.run(run())
    assert server.worlds == {}


# The address and the token


def test_the_token_is_sent_and_stands_in_no_message(server, monkeypatch):
    monkeypatch.setenv("ENV_SERVICE_TOKEN", "t0ken")
    server.faults["step"].append(always(Sent(body=b"{}", status=401)))
    message = failure_of(server)
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer t0ken"}
    assert "set the environment variable ENV_SERVICE_TOKEN" in message
    assert "t0ken" not in message
    address = EnvServiceAddress.from_settings(section(server.url))
    assert "t0ken" not in repr(address)


def test_a_password_in_the_address_is_the_token(server):
    url = server.url.replace("http://", "http://astuner:s3cret@")
    address = EnvServiceAddress.from_settings(section(url))
    assert (address.token, address.url) == ("s3cret", server.url)
    assert "s3cret" not in address.name


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://", "http://x:port", ""])
def test_an_address_that_is_none_is_a_wrong_setting(url):
    with pytest.raises(ConfigError, match=r"env_url: found .*expected the address of a server"):
        EnvServiceAddress.from_settings(section(url))


def test_a_proxy_is_not_asked_for_what_is_on_this_machine(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert play(server, steps_once).terminated
