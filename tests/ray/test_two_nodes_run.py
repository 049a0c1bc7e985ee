"""The real verl on two Ray nodes, with an environment on one: it trains on both, and goes on after
the loss of one."""

import os
import sys
import time
from pathlib import Path
from subprocess import Popen
from typing import NamedTuple

import pytest
import yaml

from astuner.run_dir import read_json_lines
from tests.ray.mixed import WORLD
from tests.ray.names import FILE_VARIABLE
from tests.ray.test_verl import environment, latest, prepare, read_until
from tests.ray.two_nodes import (
    ADDRESS,
    CARD,
    HEAD,
    NEEDS_MACHINES,
    WORKER,
    Machine,
    connect,
    make_switch,
    start_head,
    start_worker,
)
from tests.test_local_run import taught_model  # noqa: F401

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900), NEEDS_MACHINES]

FLOW = """
import ray
from tests.agents.adder_and_checker import AdderAndCheckerWorkflow


class Flow(AdderAndCheckerWorkflow):
    async def execute(self, workflow_task, model_tuner):
        output = await super().execute(workflow_task, model_tuner)
        workflow_task.gym_env.step("5")
        output.metadata["node"] = ray.util.get_node_ip_address()
        return output
"""
VARIABLES = environment(
    RAY_AUTH_MODE="disabled", GLOO_SOCKET_IFNAME=CARD, **{FILE_VARIABLE: os.devnull}
)


class Nodes:
    """A head, and a worker that can fail and be replaced."""

    def __init__(self, folder: Path, *, code: Path) -> None:
        self._folder, self._code = folder, code
        self.head = Machine(folder / "head", ray_dir=folder / "r")
        make_switch(self.head)
        self.worker: Machine | None = None

    def add_worker(self) -> None:
        """One that has not got the code."""
        ray_dir = self._folder / "r"
        name = f"worker-{time.monotonic_ns()}"
        self.worker = Machine(self._folder / name, ray_dir=ray_dir, hidden=(self._code,))
        connect(self.head, self.worker)

    def lose_worker(self) -> None:
        assert self.worker is not None
        self.worker.end()
        self.worker = None

    def tune(self, path: Path, *arguments: str) -> Popen[str]:
        command = [sys.executable, "-m", "astuner", "--conf", path.name, "--backbone=verl"]
        flags = (f"--ray-address={ADDRESS}", "astuner.trainer_common.nnodes=2", *arguments)
        return self.head.start(*command, *flags, cwd=path.parent, **VARIABLES)

    def end(self) -> None:
        for machine in (self.worker, self.head):
            if machine is not None:
                machine.end()


class Done(NamedTuple):
    run_dir: Path
    code_after_loss: int
    said_after_loss: str
    code_of_resumed: int
    said_by_resumed: str


@pytest.fixture(scope="module")
def done(taught_model, tmp_path_factory):  # noqa: F811
    """A run of which a machine fails in step 2 or 3, and its resumption with a new machine."""
    folder = tmp_path_factory.mktemp("two")
    code = folder / "code"
    code.mkdir()
    path = prepare(code, taught_model, total_training_steps=50, test_freq=50)
    content = yaml.safe_load(path.read_text())
    content["astuner"]["task_reader"] = WORLD
    path.write_text(yaml.safe_dump(content))
    (code / "flow.py").write_text(FLOW)
    shared = f"astuner.trainer_common.checkpoint_base_dir={folder / 'shared'}"
    flow = "astuner.rollout.agentscope_workflow='flow.py->Flow'"
    nodes = Nodes(folder, code=code)
    try:
        nodes.add_worker()
        start_head(nodes.head, **VARIABLES)
        start_worker(nodes.worker, **VARIABLES)
        run = nodes.tune(path, shared, flow)
        read_until(run, "step 1/50")
        nodes.lose_worker()
        _, said = run.communicate(timeout=900)
        nodes.add_worker()
        start_worker(nodes.worker, **VARIABLES)
        steps = "astuner.trainer_common.total_training_steps=3"
        resumed = nodes.tune(path, shared, flow, "--resume", steps)
        _, said_by_resumed = resumed.communicate(timeout=900)
        yield Done(
            run_dir=latest(path),
            code_after_loss=run.returncode,
            said_after_loss=said,
            code_of_resumed=resumed.returncode,
            said_by_resumed=said_by_resumed,
        )
    finally:
        nodes.end()


def test_episodes_and_training_run_on_both_machines_with_the_environment_of_one(done):
    records = list(read_json_lines(done.run_dir / "episodes" / "step_000001.jsonl"))
    nodes = {record["metadata"]["node"] for record in records if not record["failure"]}
    assert nodes == {HEAD, WORKER}
    noted = [record["metadata"]["environment"] for record in records if not record["failure"]]
    assert [facts["reward_sum"] for facts in noted] == [1.0] * len(noted)
    trainers = {path.name.partition("_")[0] for path in done.run_dir.glob("logs/*WorkerDict*.log")}
    assert trainers == {HEAD, WORKER}


def test_a_machine_that_is_lost_ends_the_run_and_is_named(done):
    assert done.code_after_loss == 1
    assert f"on {WORKER} is lost" in done.said_after_loss
    assert "--resume" in done.said_after_loss


def test_a_run_goes_on_with_another_machine_in_place_of_the_lost_one(done):
    assert done.code_of_resumed == 0, done.said_by_resumed[-5000:]
    assert "resuming from step" in done.said_by_resumed
    lines = read_json_lines(done.run_dir / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert (done.run_dir / "checkpoints" / "step_3").is_dir()
