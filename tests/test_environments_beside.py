"""An environment server that starts with a run and ends with it: `env_url: embedded`."""

import asyncio
import json
import os
import pickle
import re
import shutil
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

pytest.importorskip("openai")

from astuner.backbone.environments import make_environments
from astuner.backbone.environments_beside import environments_beside
from astuner.backbone.worker_run import WorkerRun
from astuner.cli import tune
from astuner.config.load import load_config
from astuner.config.same_run import compare_settings
from astuner.config.secret import shown_settings
from astuner.env_service.profile import list_task_ids
from astuner.env_service.service_address import EnvServiceAddress
from astuner.errors import BackboneError, ConfigError, EnvServiceError
from astuner.launch import launch
from astuner.run_dir import RunDir
from astuner.serving.address import reachable_host
from astuner.types import Task
from tests.child_runs import start_command
from tests.runs import make_run

AGENTS = """\
import asyncio
import contextlib
import os
import signal
from pathlib import Path
from astuner import Workflow, WorkflowOutput

class Saying(Workflow):
    async def execute(self, workflow_task, model_tuner):
        workflow_task.gym_env.step("done")
        return WorkflowOutput()

class Killing(Workflow):
    async def execute(self, workflow_task, model_tuner):
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for one in children:
            with contextlib.suppress(OSError):  # it ended meanwhile
                if b"beside" in Path(f"/proc/{one}/cmdline").read_bytes():
                    os.kill(int(one), signal.SIGKILL)
        await asyncio.sleep(0.5)
        workflow_task.gym_env.step("done")
        return WorkflowOutput()

class Waiting(Workflow):
    async def execute(self, workflow_task, model_tuner):
        Path("begun").touch()
        await asyncio.sleep(60)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with agents and an environment; gives what writes its YAML."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("agents.py").write_text(AGENTS)
    world = Path(__file__).with_name("played_worlds.py")
    shutil.copy(world, "world.py")

    def write(workflow, **section):
        section = {"env_type": "world.py->Counting", "env_url": "embedded", **section}
        settings = {
            "backbone": "debug",
            "task_reader": {"env_service": section},
            "task_judge": {
                "judge_protocol": "astuner.task_judge.env_service_as_judge->EnvServiceJudge"
            },
            "rollout": {"agentscope_workflow": f"agents->{workflow}", "num_repeat": 2},
            "debug": {"openai_base_url": "http://127.0.0.1:9/v1", "openai_model": "none"},
        }
        Path("job.yaml").write_text(yaml.safe_dump({"astuner": settings}))
        return Path("job.yaml")

    return write


def episodes_of(result):
    files = sorted((result.run_dir / "episodes").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def port_in(said):
    (port,) = re.findall(r"environment world\.py->Counting at http://127\.0\.0\.1:(\d+)", said)
    return int(port)


def is_open(port):
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_starts_with_the_run_and_ends_with_it(project, capfd):
    result = launch(load_config(project("Saying", options={"greeting": "Hello."})))
    said = capfd.readouterr().err
    assert result.exit_code == 0 and result.metrics["reward/mean"] == 1.5
    assert said.index("starting environment world.py->Counting") < said.index("reward mean")
    assert "task_reader.type is not set: env_service is read" in said
    assert not is_open(port_in(said))
    episodes = episodes_of(result)
    assert len(episodes) == 4
    assert episodes[0]["task"]["init_messages"][0]["content"] == "Hello."
    assert (result.run_dir / "logs" / "environment_world.py_Counting.log").exists()


def test_the_token_of_the_server_stands_in_no_file_of_the_run(project):
    result = launch(load_config(project("Saying")))
    text = b"".join(path.read_bytes() for path in result.run_dir.rglob("*") if path.is_file())
    assert b"embedded:" not in text.replace(b"env_url: embedded", b"")


def test_an_environment_that_cannot_be_served_ends_the_run_before_it_begins(project):
    with pytest.raises(ConfigError, match=r"world\.py.*Absent"):
        launch(load_config(project("Saying", env_type="world.py->Absent")))


def test_a_server_that_dies_in_mid_run_fails_the_episodes_and_is_told(project, capfd):
    with pytest.raises(BackboneError, match="nobody answers there") as raised:
        launch(load_config(project("Killing")))
    assert "the server beside this run has ended; logs/ in the run directory" in str(raised.value)
    said = " ".join(capfd.readouterr().err.split())
    assert "the environment server beside this run has ended (code -9)" in said


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_server_ends_however_its_run_does(project, ending):
    conf = project("Waiting")
    with Path("said").open("wb") as said:
        run = start_command(
            ["--conf", str(conf)], folder=Path.cwd(), stdout=said.fileno(), stderr=said.fileno()
        )
    try:
        wait_until(Path("begun").exists)
        port = port_in(Path("said").read_text())
        assert is_open(port)
        run.send_signal(ending)
        run.wait()
        wait_until(lambda: not is_open(port))
    finally:
        run.kill()


def wait_until(is_so, *, seconds=60):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it does not come to be so"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("env_type", "more"), [("counting", ()), ("appworld", ("astuner.task_reader.type=ors",))]
)
def test_an_appworld_server_that_nobody_would_use_is_refused(project, env_type, more):
    conf = project("Saying", env_type=env_type, env_url="http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="nobody would use that server"):
        tune.run(tune.make_parser().parse_args(["--conf", str(conf), "--with-appworld", *more]))


def test_a_worker_of_a_cluster_reaches_the_server_of_the_command(project):
    """What travels to it is pickled; its address is in it, with the token."""
    loaded = load_config(project("Saying"))
    run = make_run(loaded, RunDir.create(Path("runs"), "job"))
    task = Task(main_query="", task_id="a_1")

    async def main():
        async with environments_beside(run) as served:
            worker = pickle.loads(pickle.dumps(WorkerRun.of(served))).open()
            (environments,) = make_environments(worker).values()
            instance = await environments.create(task, episode_id="e", seed=1)
            await instance.release()
            return instance.messages, environments.name

    messages, name = asyncio.run(main())
    assert messages[1]["content"] == "Play a_1 on no map."
    assert re.fullmatch(r"environment world\.py->Counting at http://127\.0\.0\.1:\d+", name)


@pytest.mark.parametrize("there", [None, "of the worker"])
def test_a_worker_has_the_keys_that_the_command_has_unless_it_has_its_own(
    project, monkeypatch, there
):
    """A cluster that was there before knows nothing of the command's environment."""
    names = ("ENV_SERVICE_TOKEN", "OPENAI_API_KEY")
    for name in names:
        monkeypatch.setenv(name, f"{name} of the command")
    monkeypatch.setenv("ANOTHER_SECRET", "stays")
    run = make_run(load_config(project("Saying")), RunDir.create(Path("runs"), "job"))
    worker_run = WorkerRun.of(run)
    pickled = pickle.dumps(worker_run)
    assert b"stays" not in pickled
    assert "of the command" not in repr(worker_run)
    for name in names:
        monkeypatch.delenv(name)
        if there is not None:
            monkeypatch.setenv(name, there)
    pickle.loads(pickled).open()
    assert [os.environ[name] for name in names] == [
        there or f"{name} of the command" for name in names
    ]


def test_a_run_that_goes_on_has_another_address_and_its_options_are_compared(project):
    def run_with(greeting):
        loaded = load_config(project("Saying", options={"greeting": greeting}))
        return make_run(loaded, RunDir.create(Path("runs"), "job"))

    async def main():
        async with (
            environments_beside(run_with("Hello.")) as first,
            environments_beside(run_with("Hello.")) as again,
            environments_beside(run_with("Good day.")) as other,
        ):
            saved = shown_settings(first.settings, {})
            return [compare_settings(saved, run.settings).told for run in (again, other)]

    key = "task_reader.env_service.options.greeting"
    assert asyncio.run(main()) == [(), (f"{key}: 'Hello.' → 'Good day.'",)]


def test_a_run_on_several_machines_has_its_server_where_they_reach_it(project):
    loaded = load_config(
        project("Saying"),
        ["astuner.trainer_common.nnodes=2", "astuner.model.path=m"],
        backbone="verl",
    )
    run = make_run(loaded, RunDir.create(Path("runs"), "job"))

    async def main():
        async with environments_beside(run) as served:
            address = EnvServiceAddress.from_settings(
                served.settings.task_reader.env_service.model_dump()
            )
            with pytest.raises(EnvServiceError, match="answered 401"):
                list_task_ids(replace(address, token=None), "train")
            return address.url, await asyncio.to_thread(list_task_ids, address, "train")

    url, ids = asyncio.run(main())
    assert reachable_host("0.0.0.0") in url
    assert ids == ["a_1", "a_2"]
