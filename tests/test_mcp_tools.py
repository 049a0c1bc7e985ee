"""Real MCP servers, over pipes and over HTTP, as an agent's tools; and how they end."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from astuner.env_service.mcp_tools import mcp_tools
from astuner.errors import ConfigError, EnvServiceError
from tests.remote_servers import CLOSED_PORT_URL

pytest.importorskip("mcp")

SERVER = [sys.executable, str(Path(__file__).parent / "mcp_server.py")]
STDIO = [*SERVER, "stdio"]
NAMES = ["add", "fail", "pids", "secret", "die", "hang"]


def call(name, arguments=None):
    return {"id": "c1", "function": {"name": name, "arguments": arguments or {}}}


@contextlib.contextmanager
def http_server():
    process = subprocess.Popen([*SERVER, "http"], stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
    finally:
        process.kill()
        process.communicate()


def lives(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until_gone(pids):
    deadline = time.monotonic() + 60
    while any(map(lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [pid for pid in pids if lives(pid)]


async def contents(server, *calls):
    return [(await server.call(one))["content"] for one in calls]


async def play_a_little(server):
    assert [tool["function"]["name"] for tool in server.tools] == NAMES
    add = server.tools[0]["function"]
    assert add["description"] == "Add two numbers."
    assert set(add["parameters"]["properties"]) == {"a", "b"}
    answer = await server.call(call("add", '{"a": 2, "b": 3}'))
    assert answer == {"role": "tool", "content": "5", "name": "add", "tool_call_id": "c1"}
    wrong = await contents(server, call("add", {"a": "x"}), call("nope"), call("fail"))
    assert all(text.startswith("error: ") for text in wrong)
    assert "integer" in wrong[0]
    assert "nope" in wrong[1]
    as_client_has_it = SimpleNamespace(model_dump=lambda mode: call("add", "[2"))
    assert "JSON object" in (await server.call(as_client_has_it))["content"]


def test_a_server_over_pipes_has_tools_and_the_environment_that_it_is_given(monkeypatch):
    monkeypatch.setenv("HIDDEN", "seen")

    async def body():
        async with mcp_tools(STDIO, environment={"SECRET": "told"}) as server:
            await play_a_little(server)
            return await contents(server, call("secret"))

    assert asyncio.run(body()) == ["told"]


def test_a_server_over_http_has_tools_and_a_slow_one_names_what_was_waited_for():
    async def body(url):
        async with mcp_tools(url, headers={"x-who": "me"}) as server:
            await play_a_little(server)
            with pytest.raises(EnvServiceError, match=r"the tool hang.*timeout_seconds"):
                await server.call(call("hang"), timeout_seconds=0.3)

    with http_server() as url:
        asyncio.run(body(url))


@pytest.mark.parametrize("is_busy", [True, False])
def test_the_server_and_its_children_end_with_the_block_also_when_it_is_cancelled(is_busy):
    pids = []

    async def body():
        async with mcp_tools(STDIO) as server:
            (told,) = await contents(server, call("pids"))
            pids.extend(map(int, told.split()))
            await (server.call(call("hang")) if is_busy else asyncio.sleep(600))

    async def cancelled():
        task = asyncio.create_task(body())
        while not pids:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)  # until the call is under way
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    try:
        assert wait_until_gone(pids) == []
    finally:
        for pid in filter(lives, pids):
            os.kill(pid, 9)


def test_a_server_that_dies_is_a_failure_with_its_last_words():
    async def body():
        async with mcp_tools(STDIO) as server:
            with pytest.raises(EnvServiceError, match="I have had enough"):
                await server.call(call("die"))
            with pytest.raises(EnvServiceError, match="the tool add"):
                await server.call(call("add", {"a": 1, "b": 2}))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(body())


@pytest.mark.parametrize(
    ("where", "seconds", "named"),
    [
        (["/no/such/program"], 60, "/no/such/program"),
        ([sys.executable, "-c", "raise SystemExit('no key')"], 60, "no key"),
        ([sys.executable, "-c", "import time; time.sleep(600)"], 0.5, "timeout_seconds"),
        (f"{CLOSED_PORT_URL}/mcp", 60, "connection"),
    ],
)
def test_a_server_that_cannot_be_opened_says_why_and_in_time(where, seconds, named):
    async def body():
        async with mcp_tools(where, timeout_seconds=seconds):
            pass

    started = time.monotonic()
    with pytest.raises(EnvServiceError, match=f"opening it.*{named}"):
        asyncio.run(body())
    assert time.monotonic() - started < 60


def test_a_command_that_is_written_as_one_text_is_asked_for_as_a_list():
    async def body():
        async with mcp_tools("python server.py"):
            pass

    with pytest.raises(ConfigError, match=r"\['python', 'server.py'\]"):
        asyncio.run(body())


def test_a_missing_package_says_what_to_install(monkeypatch):
    async def body():
        async with mcp_tools(STDIO):
            pass

    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(ConfigError, match="pip install mcp"):
        asyncio.run(body())
