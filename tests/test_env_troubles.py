"""Whatever an environment does, its client is told what it was, and all others go on."""

import asyncio
import os
import signal
import venv
from pathlib import Path

import pytest

from astuner.env_service.server.worker import EnvironmentWorker
from astuner.env_service.server.world import World
from astuner.env_service.server.zygote import Zygote
from astuner.serving.refusal import Refusal
from tests.env_servers import env_server, settings, world

RAISED = "environment_raised"
DIED = "environment_died"
WRONG = "invalid_answer"

IN_A_STEP = {
    "raise": (RAISED, "step raised ValueError: a fault of the world (worlds.py, line "),
    "key": (RAISED, "step raised KeyError: 'absent' (worlds.py, line "),
    "exit": (RAISED, "step raised SystemExit: 3"),
    "exit at once": (DIED, "it ended its process with exit code 4 during step 0"),
    "die": (DIED, "killed by SIGKILL during step 0, perhaps by the system for want of memory"),
    "crash": (DIED, "killed by SIGSEGV during step 0"),
    "garble": (DIED, "something else than an answer came during step 0"),
    "memory": ("out_of_memory", "step raised MemoryError"),
    "bytes": (WRONG, "an observation that is a value of the type bytes; return text"),
    "number": (WRONG, "an observation that is a value of the type int; return text"),
    "no utf-8": (WRONG, "text that is no Unicode at character 1"),
    "nothing": (WRONG, "step returned None; return the tuple (observation, reward,"),
    "four": (WRONG, "step returned a value of the type tuple with 4 parts; return the tuple"),
    "nan": (WRONG, "step: reward is nan; return a finite number"),
    "huge": (WRONG, "step: reward is 1000000"),
    "no reward": (WRONG, "step: reward is None; return a finite number"),
    "no truth": (WRONG, "step: terminated is 'yes'; return True or False"),
    "no info": (WRONG, "step: info is None; return a dictionary"),
}


async def _troubled_steps():
    trouble, echo = world("TroubleWorld"), world("EchoWorld", name="echo")
    found = {}
    async with env_server(trouble, echo, memory_mb=1024) as client:
        other = await client.create(env_type="echo")
        for index, (action, (_, said)) in enumerate(IN_A_STEP.items()):
            instance_id = await client.create()
            error = await client.step_error(instance_id, action, 0)
            found[action] = (error["code"], said if said in error["message"] else error["message"])
            assert error["retriable"] is False
            assert await client.step_error(instance_id, "print", 1) == error
            assert await client.error("/evaluate", instance_id=instance_id) == error
            await client.data("/release", instance_id=instance_id)
            await client.step(other, "on", index)
    assert found == IN_A_STEP


def test_a_step_that_goes_wrong_ends_its_instance_and_no_other() -> None:
    asyncio.run(_troubled_steps())


async def _troubled_resets():
    async with env_server(world("TroubleWorld")) as client:
        found = {}
        for task in ("raise", "key", "exit at once", "bytes"):
            asked = {"env_type": "world", "task_id": task, "instance_id": f"for {task}"}
            found[task] = (await client.error("/create", **asked))["code"]
            again = {**asked, "task_id": "fine"}
            assert (await client.data("/create", **again))["state"][0]["content"] == "fine"
        assert found == {
            "raise": RAISED,
            "key": RAISED,
            "exit at once": DIED,
            "bytes": WRONG,
        }


def test_a_reset_that_goes_wrong_is_told_and_may_be_tried_again() -> None:
    asyncio.run(_troubled_resets())


async def _hung_step():
    """It blocks all signals that can be."""
    async with env_server(world("TroubleWorld"), step_timeout_seconds=0.2) as client:
        instance_id = await client.create()
        error = await client.step_error(instance_id, "hang", 0)
        assert error == {
            "code": "environment_hung",
            "message": "environment world: step 0 had not returned after 0.2 s",
            "retriable": False,
        }
        assert await client.error("/evaluate", instance_id=instance_id) == error


def test_a_step_that_never_returns_ends_at_its_deadline() -> None:
    asyncio.run(_hung_step())


async def _hung_reset():
    zygote = Zygote(world("TroubleWorld"), settings())
    worker = EnvironmentWorker(zygote, name="world")
    try:
        await worker.start()
        await worker.ask("make", timeout_seconds=60, doing="__init__")
        asked = {"seed": None, "options": {"task_id": "hang"}}
        with pytest.raises(Refusal, match=r"reset had not returned after 0\.2 s"):
            await worker.ask("reset", timeout_seconds=0.2, doing="reset", **asked)
        await worker.end()
        assert worker.has_ended
    finally:
        await zygote.close()


def test_a_reset_that_never_returns_ends_at_its_deadline() -> None:
    asyncio.run(_hung_reset())


async def _unmade(path):
    async with env_server(world("UnmadeWorld", path=str(path))) as client:
        await client.create()
        error = await client.error("/create", env_type="world", task_id="a")
        assert error["code"] == RAISED
        assert "__init__ raised RuntimeError: it was made already (worlds.py" in error["message"]


def test_an_environment_that_cannot_be_made_is_told_where_it_is_created(tmp_path) -> None:
    asyncio.run(_unmade(tmp_path / "made"))


async def _harmless():
    async with env_server(world("TroubleWorld"), max_observation_chars=1000) as client:
        instance_id = await client.create()
        long = (await client.step(instance_id, "long"))["state"][0]["content"]
        assert long == "y" * 1000 + (
            "\n[cut here: this observation has 10,000,000 characters, of which 1,000 are shown]"
        )
        assert (await client.step(instance_id, "print"))["state"][0]["content"] == "printed"
        assert (await client.step(instance_id, "fork"))["state"][0]["content"] == "both come back"
        info = (await client.step(instance_id, "odd info"))["info"]["environment"]
        assert info == {"path": "PosixPath('a')", "nan": "nan", "3": [4]}
        error = await client.error("/evaluate", instance_id=instance_id)
        assert (error["code"], error["message"]) == (
            WRONG,
            "environment world: evaluate: its value is nan; return a finite number",
        )


def test_a_long_observation_is_cut_and_printing_and_forking_harm_nobody() -> None:
    asyncio.run(_harmless())


async def _sum_of_rewards():
    async with env_server(world("EchoWorld", greeting="no value")) as client:
        instance_id = await client.create()
        for _ in range(3):
            await client.step(instance_id, "x")
        assert await client.data("/evaluate", instance_id=instance_id) == 1.5


def test_where_an_environment_has_no_value_it_is_the_sum_of_its_rewards() -> None:
    asyncio.run(_sum_of_rewards())


async def _too_large_a_sum():
    async with env_server(world("VastWorld")) as client:
        instance_id = await client.create()
        for _ in range(2):
            await client.step(instance_id, "x")
        error = await client.error("/evaluate", instance_id=instance_id)
        assert error["code"] == WRONG
        assert "evaluate: the sum of its rewards is inf; return a finite number" in error["message"]


def test_a_sum_of_rewards_that_is_no_number_is_told_as_such() -> None:
    asyncio.run(_too_large_a_sum())


# processes


def _descendants() -> set[int]:
    """Processes that this one has started, and theirs."""
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    parents = {process: _parent(process) for process in numbers}
    found, edge = set(), {os.getpid()}
    while edge := {process for process, parent in parents.items() if parent in edge}:
        found |= edge
    return found


def _parent(process: int) -> int | None:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _lives(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


async def _until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


async def _left_processes():
    before = _descendants()
    files = len(os.listdir("/proc/self/fd"))
    async with env_server(world("TroubleWorld")) as client:
        for end in ("release", "die", "leave"):
            instance_id = await client.create()
            said = (await client.step(instance_id, "leave a process"))["state"][0]["content"]
            left = int(said.removeprefix("left "))
            assert _lives(left)
            if end == "release":
                await client.data("/release", instance_id=instance_id)
            if end == "die":
                await client.step_error(instance_id, "die")
            if end != "leave":
                await _until(lambda left=left: not _lives(left))
    await _until(lambda: not _lives(left) and _descendants() == before)
    assert len(os.listdir("/proc/self/fd")) <= files


def test_no_process_is_left_by_an_instance_or_by_the_server() -> None:
    asyncio.run(_left_processes())


async def _killed_zygote():
    """As the system does where memory is short."""
    before = _descendants()
    async with env_server() as client:
        instance_id = await client.create()
        started = _descendants() - before
        zygote = next(process for process in started if _parent(process) == os.getpid())
        os.kill(zygote, signal.SIGKILL)
        await _until(lambda: not any(map(_lives, started)))
        assert (await client.step_error(instance_id, "x"))["code"] == DIED
        assert await client.step(await client.create(), "x")


def test_a_server_survives_the_process_that_instances_come_from() -> None:
    asyncio.run(_killed_zygote())


async def _fresh():
    async with env_server(world("FreshWorld"), world("EchoWorld", name="other")) as client:
        made = await client.data("/create", env_type="world", task_id="a")
        assert made["state"][0]["content"] == "True"
        assert await client.data("/get_env_profile", env_type="world") == ["a", "b"]


def test_a_class_that_cannot_be_forked_is_imported_by_each_instance() -> None:
    asyncio.run(_fresh())


ALONE = """
import importlib.util
import sys


class World:
    def reset(self, *, seed=None, options=None):
        has_astuner = importlib.util.find_spec("astuner") is not None
        return f"{sys.prefix} {has_astuner}", {}

    def step(self, action):
        return f"{action} {action.tool_calls}", 1, True, False, {}
"""


async def _alone(python, file):
    alone = World(
        name="alone", target=f"{file}->World", python=str(python), search_dirs=(file.parent,)
    )
    async with env_server(alone) as client:
        made = await client.data("/create", env_type="alone", task_id="a")
        assert made["state"][0]["content"] == f"{python.parent.parent} False"
        instance_id = made["info"]["instance_id"]
        assert (await client.step(instance_id, "x"))["state"][0]["content"] == "x ()"
        error = await client.error("/get_env_profile", env_type="alone")
        assert (error["code"], "no method task_ids" in error["message"]) == ("unknown_split", True)


def test_an_environment_runs_under_its_own_interpreter_where_astuner_is_not(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    venv.create(tmp_path / "venv", symlinks=True)
    file = tmp_path / "alone.py"
    file.write_text(ALONE)
    asyncio.run(_alone(tmp_path / "venv" / "bin" / "python", file))


async def _killed_while_one_is_made():
    before = _descendants()
    async with env_server(world("SlowlyMadeWorld")) as client:
        await client.create()  # another spare is on its way now
        started = _descendants() - before
        os.kill(next(p for p in started if _parent(p) == os.getpid()), signal.SIGKILL)
        await _until(lambda: not any(map(_lives, started)))
        assert await client.step(await client.create(), "x")


def test_what_is_lost_while_it_is_made_is_made_again() -> None:
    asyncio.run(_killed_while_one_is_made())
