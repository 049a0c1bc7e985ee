"""Every way a run can end, on the local backbone, each in a process of its own.

`WAYS` stands beside the table of docs/operating.md: each of its rows is tested, here or elsewhere.
"""

import os
import signal
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("agentscope")
pytest.importorskip("torch")

from astuner.run_dir import read_json_lines
from tests.child_runs import ChildRun, start_run
from tests.test_local_run import AGENTS, taught_model, write_conf  # noqa: F401

ROOT = Path(__file__).parent.parent

CODE_OF_USERS = '''\
import asyncio
import os
import signal
import time

import torch

from adder import AdderWorkflow
from astuner.algorithm.loss import ppo_clip
from astuner.task_judge.base_judge import BaseJudge


class Waiting(AdderWorkflow):
    """Waits in the second step until it is ended."""

    async def execute(self, workflow_task, model_tuner):
        if workflow_task.step == 2:
            print("waiting", flush=True)
            await asyncio.sleep(60)
        return await super().execute(workflow_task, model_tuner)


class Pausing(AdderWorkflow):
    """Stops the process once in the second step, as Ctrl-Z does."""

    async def execute(self, workflow_task, model_tuner):
        if workflow_task.step == 2 and not paused:
            paused.append(True)
            os.kill(os.getpid(), signal.SIGSTOP)
        return await super().execute(workflow_task, model_tuner)


paused = []


class LeavingTheLoop(AdderWorkflow):
    async def execute(self, workflow_task, model_tuner):
        if workflow_task.step == 2:
            asyncio.get_running_loop().call_soon(exit)
            await asyncio.sleep(60)
        return await super().execute(workflow_task, model_tuner)


class HangingJudge(BaseJudge):
    """Never answers about the second attempt."""

    def __init__(self, config): ...

    def compute_reward(self, workflow_task, workflow_output):
        if workflow_task.attempt == 1:
            time.sleep(60)
        return float(workflow_task.attempt), True


asked = []


def hungry_loss(inputs):
    """Asks for more memory than there is in the second step."""
    asked.append(inputs)
    if len(asked) > 1:
        torch.empty(2**56, dtype=torch.uint8)
    return ppo_clip(inputs)
'''


@pytest.fixture
def conf(taught_model: Path, tmp_path: Path) -> Path:  # noqa: F811
    """Three steps that are saved each, without validation, and code of users beside them."""
    write_conf(tmp_path, taught_model)
    path = tmp_path / "adder.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["astuner"]["rollout"]["agentscope_workflow"] = "adder->AdderWorkflow"
    settings["astuner"]["trainer_common"] |= {
        "total_training_steps": 3,
        "total_epochs": 2,
        "val_before_train": False,
        "test_freq": 99,
    }
    path.write_text(yaml.safe_dump(settings))
    (tmp_path / "adder.py").symlink_to(AGENTS / "adder.py")
    (tmp_path / "code_of_users.py").write_text(CODE_OF_USERS)
    return path


def workflow(name: str) -> str:
    return f"rollout.agentscope_workflow=code_of_users->{name}"


def steps_in_metrics(run: ChildRun) -> list[int]:
    return [line["step"] for line in read_json_lines(run.run_dir / "metrics.jsonl")]


def start_waiting(conf: Path) -> ChildRun:
    """A run that has saved its first step and is in its second one."""
    run = start_run(conf, workflow("Waiting"))
    run.wait_until_said("waiting")
    return run


def test_a_run_that_is_done_ends_with_0_and_says_where_everything_lies(conf):
    run = start_run(conf)
    assert run.code() == 0
    assert steps_in_metrics(run) == [1, 2, 3]
    assert run.checkpoints() == ["best", "step_1", "step_2", "step_3"]
    assert f"run directory  {run.run_dir}" in run.said
    assert f"checkpoint     {run.run_dir}/checkpoints/step_3" in run.said


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_saves_the_last_whole_step(conf, sent, code):
    run = start_run(conf, workflow("Waiting"), "trainer_common.save_freq=99")
    run.wait_until_said("waiting")
    os.kill(run.pid, sent)
    assert run.code() == code
    assert run.checkpoints() == ["step_1"]
    assert f"{sent.name}: stopping" in run.said and "checkpoint     " in run.said


def test_ctrl_c_twice_ends_at_once(conf):
    run = start_waiting(conf)
    os.kill(run.pid, signal.SIGINT)
    os.kill(run.pid, signal.SIGINT)
    assert run.code() == 130
    assert run.checkpoints() == ["step_1"]


def test_a_kill_leaves_the_last_checkpoint(conf):
    run = start_waiting(conf)
    os.kill(run.pid, signal.SIGKILL)
    assert run.code() == 137
    assert run.checkpoints() == ["step_1"] and steps_in_metrics(run) == [1]
    again = start_run(conf, resume=True)
    assert again.code() == 0 and "resuming from" in again.said


def test_a_pause_longer_than_an_episode_may_take_changes_nothing(conf):
    run = start_run(conf, workflow("Pausing"), "rollout.episode_timeout_seconds=6")
    run.wait_until(lambda: is_stopped(run.pid), "it was stopped")
    time.sleep(7)
    os.kill(run.pid, signal.SIGCONT)
    assert run.code() == 0, run.said
    lines = list(read_json_lines(run.run_dir / "metrics.jsonl"))
    assert [line["rollout/failed_episodes"] for line in lines] == [0, 0, 0]


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_screen_that_goes_away_ends_nothing(conf):
    reader, writer = os.pipe()
    run = start_run(conf, screen=writer)
    os.close(writer)
    assert os.read(reader, 1)
    os.close(reader)
    assert run.code() == 0
    assert "step_3" in run.checkpoints() and "step 3" in run.log


def test_a_full_disk_ends_the_run_and_leaves_no_half_checkpoint(conf):
    run = start_run(conf, max_file_bytes=600_000)
    assert run.code() == 1
    assert run.checkpoints() == [] and steps_in_metrics(run) == [1]
    last = run.said.splitlines()[-1]
    assert "BackboneError" in last and "step_1" in last and "File too large" in last


def test_out_of_memory_in_training_ends_the_run_with_what_to_lower(conf):
    loss = "trainer_common.algorithm.policy_loss=code_of_users->hungry_loss"
    run = start_run(conf, loss, "trainer_common.max_token_len_per_gpu=100000")
    assert run.code() == 1
    assert run.checkpoints() == ["step_1"]
    assert "out of memory in the training pass" in run.said.splitlines()[-1]
    assert "max_token_len_per_gpu" in run.said


def test_user_code_that_exits_outside_of_an_episode_ends_the_run_by_name(conf):
    run = start_run(conf, workflow("LeavingTheLoop"))
    assert run.code() == 1
    assert run.checkpoints() == ["step_1"]
    assert "user code ended the run by sys.exit(None)" in run.said


def test_a_judge_that_hangs_fails_its_episodes_only(conf):
    judge = "task_judge.judge_protocol=code_of_users->HangingJudge"
    settings = ("task_judge.judge_timeout_seconds=0.5", "trainer_common.total_training_steps=1")
    run = start_run(conf, judge, *settings)
    assert run.code() == 0, run.said
    (step,) = read_json_lines(run.run_dir / "metrics.jsonl")
    assert step["rollout/failed_episodes"] == 2
    assert "judge" in run.said
