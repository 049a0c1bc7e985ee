"""`astuner env`, and a server in a process of its own beside a run."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from astuner.cli import main
from astuner.config.schema import setting_keys
from astuner.config.source import flatten
from astuner.env_service.server.beside import server_beside
from astuner.errors import ConfigError
from tests.env_servers import WORLDS, settings, world
from tests.signals import signals_of_a_terminal

ROOT = Path(__file__).parent.parent


@contextlib.contextmanager
def _command(*arguments: str, **environment: str) -> Iterator[subprocess.Popen]:
    with signals_of_a_terminal():
        process = subprocess.Popen(
            [sys.executable, "-m", "astuner", "env", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _told(process: subprocess.Popen) -> tuple[str, str]:
    """The address and the YAML that the command prints."""
    first = process.stdout.readline()
    assert first, process.stderr.read()
    lines = []
    while (line := process.stdout.readline()) != "Ctrl-C ends it\n":
        lines.append(line)
    return first.split()[-1], textwrap.dedent("".join(lines[1:]))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_the_command_serves_until_a_signal_ends_it(number, code) -> None:
    named = ("serve", f"mine={WORLDS}->EchoWorld", "--port", "0", "--option", "greeting=moin")
    with _command(*named) as process:
        address, text = _told(process)
        keys = flatten(yaml.safe_load(text))
        assert keys["astuner.task_reader.env_service.env_url"] == address
        assert set(keys) <= set(setting_keys())
        body = {"env_type": "mine", "task_id": "a"}
        with httpx.Client(trust_env=False) as http:
            made = http.post(f"{address}/create", json=body).json()
        assert made["data"]["state"] == [{"role": "user", "content": "moin"}]
        children = _children(process.pid)
        process.send_signal(number)
        assert process.wait(60) == code
        assert "Traceback" not in process.stderr.read()
    assert children and not any(Path(f"/proc/{child}").exists() for child in children)


def _children(process: int) -> list[str]:
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


def test_nothing_outlives_a_server_that_is_killed() -> None:
    with _command("serve", f"w={WORLDS}->TroubleWorld", "--port", "0") as process:
        address, _ = _told(process)
        body = {"env_type": "w", "task_id": "leave a process"}
        with httpx.Client(trust_env=False) as http:
            made = http.post(f"{address}/create", json=body).json()
        left = made["data"]["state"][0]["content"].removeprefix("left ")
        (zygote,) = _children(process.pid)
        processes = [left, zygote, *_children(int(zygote))]
        assert all(map(_lives, processes))
        process.kill()
        asyncio.run(_until_gone(processes))


def test_the_token_is_taken_from_the_environment() -> None:
    named = ("serve", f"{WORLDS}->EchoWorld", "--port", "0", "--host", "0.0.0.0")
    with _command(*named, ENV_SERVICE_TOKEN="secret") as process:
        address, _ = _told(process)
        port = address.rpartition(":")[2]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            asked = {"env_type": "EchoWorld", "params": {"split": "train"}}
            assert http.post("/get_env_profile", json=asked).status_code == 401
            named = {"Authorization": "Bearer secret"}
            answer = http.post("/get_env_profile", json=asked, headers=named)
            assert answer.json()["data"] == ["a", "b"]


def test_what_cannot_be_served_is_said_in_one_line(capsys) -> None:
    echo = f"{WORLDS}->EchoWorld"
    cases = {
        (): "no environment is named",
        ("gymnasim",): "did you mean gymnasium?",
        ("unquoted.py-",): "put module->Class in quotes",
        ("absent.py->World",): "absent.py: there is no such file",
        ("absent_module->World",): "No module named 'absent_module'",
        ("json->JSONDecoder",): "JSONDecoder in .* has no method reset and no step",
        (echo, "--option", "id"): "there is no value; write KEY=VALUE",
        (echo, "--capacity", "0"): "capacity of the environment server is 0",
        (echo, "--python", "/absent/python"): "cannot start /absent/python",
    }
    for arguments, said in cases.items():
        assert main(["env", "serve", *arguments, "--port", "0"]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert re.search(said, error), error


def test_the_known_environments_are_listed_with_what_they_need(capsys) -> None:
    assert main(["env", "list"]) == 0
    told = capsys.readouterr().out
    for name in ("gymnasium", "textarena", "textworld", "appworld"):
        assert f"\n{name} " in f"\n{told}"
    assert told.count("needs: ") == 4


# beside a run


async def _beside():
    before = set(_children(os.getpid()))
    async with server_beside([world("EchoWorld")], settings()) as address:
        async with httpx.AsyncClient(base_url=address, trust_env=False) as http:
            body = {"env_type": "world", "task_id": "a"}
            assert (await http.post("/create", json=body)).json()["success"]
        children = set(_children(os.getpid())) - before
    assert children and not any(Path(f"/proc/{child}").exists() for child in children)
    with pytest.raises(ConfigError, match="has no class OtherWorld"):
        async with server_beside([world("OtherWorld")], settings()):
            pass


def test_a_server_beside_a_run_ends_with_it() -> None:
    asyncio.run(_beside())


KILLED = """
import asyncio, json, os, signal
from astuner.env_service.server.beside import server_beside
from tests.env_servers import settings, world

async def run():
    async with server_beside([world("EchoWorld")], settings()) as address:
        server = open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read().split()
        zygotes = open(f"/proc/{server[0]}/task/{server[0]}/children").read().split()
        print(json.dumps(server + zygotes), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(run())
"""


def test_a_server_beside_a_run_ends_when_the_run_is_killed() -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    processes = json.loads(killed.stdout)
    assert len(processes) == 2
    asyncio.run(_until_gone(processes))


async def _until_gone(processes: list[str]) -> None:
    async with asyncio.timeout(60):
        while any(map(_lives, processes)):
            await asyncio.sleep(0.05)


def _lives(process: str) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
