"""Every way a run can end, on the local backbone, each in a process of its own.

`WAYS` stands beside the table of docs/operating.md: each of its rows is tested, here or elsewhere.
"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

pytest.importorskip("agentscope")
pytest.importorskip("torch")

from astuner.run_dir import read_json_lines
from tests.child_runs import ChildRun, start_run
from tests.test_local_run import AGENTS, taught_model, write_conf  # noqa: F401

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Where it is tested how a run ends: `file::function` below tests/. Without a file it is this
    one, or that of the real engine."""

    local: tuple[str, ...] = ()
    verl: tuple[str, ...] = ()
    trinity: tuple[str, ...] = ()


VERL = "ray/test_verl.py::"
"""For Trinity, where the run's own process does what it does beside verl."""
WAYS = {
    "all steps are done": Shown(
        local=("test_a_run_that_is_done_ends_with_0_and_says_where_everything_lies",),
        verl=("test_the_tutorial_trains_by_the_flag_alone",),
        trinity=("test_the_tutorial_trains_by_the_flag_alone",),
    ),
    "a setting is wrong": Shown(
        local=("test_local_run.py::test_a_path_that_is_no_workflow_says_what_its_module_defines",),
        verl=("test_settings_that_contradict_each_other_end_the_run_before_ray_starts",),
        trinity=("test_settings_that_contradict_each_other_end_the_run_before_ray_is_asked",),
    ),
    "Ctrl-C": Shown(
        local=("test_a_signal_saves_the_last_whole_step",),
        verl=("test_ctrl_c_saves_after_the_step_and_has_its_own_code",),
        trinity=("test_ctrl_c_saves_after_the_step_and_ends_the_environments_of_a_mixture_too",),
    ),
    "Ctrl-C twice": Shown(
        local=("test_ctrl_c_twice_ends_at_once",),
        verl=("test_ctrl_c_twice_ends_at_once_and_leaves_what_was_saved",),
    ),
    "SIGTERM": Shown(
        local=("test_a_signal_saves_the_last_whole_step",),
        verl=("test_a_stop_and_a_lost_console_end_no_run_and_sigterm_ends_it_after_the_step",),
    ),
    "SIGHUP": Shown(
        local=(
            "test_a_signal_saves_the_last_whole_step",
            "test_cli.py::test_a_hangup_is_ignored_under_nohup",
        ),
        trinity=("test_a_stop_and_a_lost_console_end_no_run_and_a_hangup_ends_it_after_the_step",),
    ),
    "something hangs for `trainer_common.grace_seconds` after SIGTERM or SIGHUP": Shown(
        local=("test_grace.py::test_what_nothing_interrupts_is_left_behind_and_the_loss_is_said",)
    ),
    "SIGKILL: by hand, by the system for want of memory, or the machine goes down": Shown(
        local=(
            "test_a_kill_leaves_the_last_checkpoint",
            "test_kill_resume.py::test_twenty_kills_change_nothing",
        ),
        verl=("ray/test_cluster.py::test_a_head_does_not_outlive_a_run_that_is_killed",),
    ),
    "Ctrl-Z and `fg`, `docker pause`": Shown(
        local=("test_a_pause_longer_than_an_episode_may_take_changes_nothing",),
        verl=("test_a_stop_and_a_lost_console_end_no_run_and_sigterm_ends_it_after_the_step",),
        trinity=("test_a_stop_and_a_lost_console_end_no_run_and_a_hangup_ends_it_after_the_step",),
    ),
    "the screen goes away": Shown(
        local=(
            "test_a_screen_that_goes_away_ends_nothing",
            "test_cli.py::test_a_screen_that_takes_no_text_does_not_end_the_run",
        ),
        verl=("test_a_stop_and_a_lost_console_end_no_run_and_sigterm_ends_it_after_the_step",),
        trinity=("test_a_stop_and_a_lost_console_end_no_run_and_a_hangup_ends_it_after_the_step",),
    ),
    "the disk has too little room for the checkpoints that are kept": Shown(
        local=("test_disk.py::test_a_run_that_cannot_fit_is_told_what_would",)
    ),
    "the disk is full": Shown(
        local=("test_a_full_disk_ends_the_run_and_leaves_no_half_checkpoint",),
        verl=("test_a_full_disk_ends_the_run_with_its_name_and_keeps_the_last_checkpoint",),
        trinity=(
            f"{VERL}test_a_full_disk_ends_the_run_with_its_name_and_keeps_the_last_checkpoint",
        ),
    ),
    "the run directory is deleted or moved": Shown(
        local=("test_run_dir.py::test_a_run_directory_that_is_gone_is_said",),
        verl=("test_run_dir.py::test_a_run_directory_that_is_gone_is_said",),
    ),
    "memory runs out in training": Shown(
        local=("test_out_of_memory_in_training_ends_the_run_with_what_to_lower",)
    ),
    "too many episodes fail": Shown(
        local=("test_local_run.py::test_a_run_whose_episodes_all_fail_stops_with_the_reason",),
        verl=("test_too_many_failed_episodes_end_the_run_with_the_reason",),
        trinity=("test_more_failed_episodes_than_allowed_end_the_run_with_their_reason",),
    ),
    "all calls are refused": Shown(
        local=("test_local_run.py::test_a_run_whose_calls_are_all_refused_stops_with_the_refusal",)
    ),
    "nothing is trained: no model calls, no spread, no taken answers": Shown(
        local=(
            "test_health.py::test_a_judge_that_always_says_the_same_stops_the_run",
            "test_health.py::test_a_workflow_that_never_asks_the_model_stops_the_run",
        ),
        verl=(
            "test_hub.py::"
            "test_a_step_that_teaches_nothing_is_rolled_out_again_and_at_last_ends_the_run",
        ),
    ),
    "a loss or weight is no finite number": Shown(
        local=("test_health.py::test_a_weight_that_becomes_nan_is_never_saved",)
    ),
    "anything else fails: a loss of yours, a bug": Shown(
        local=("test_an_unexpected_error_ends_the_run_with_its_traceback",)
    ),
    "user code exits inside of an episode": Shown(
        local=("test_cli.py::test_user_code_that_exits_fails_its_own_episode_only",),
        verl=("test_user_code_that_exits_or_hangs_in_a_worker_costs_its_episode_only",),
        trinity=("test_user_code_that_exits_or_hangs_in_a_worker_costs_its_episode_only",),
    ),
    "user code exits outside of any episode": Shown(
        local=("test_user_code_that_exits_outside_of_an_episode_ends_the_run_by_name",)
    ),
    "user code calls `os._exit`, or a library crashes": Shown(
        local=("test_held_lock.py::test_a_process_that_ends_inside_without_a_word_is_told_of",)
    ),
    "user code blocks the event loop": Shown(
        local=("test_rollout.py::test_a_workflow_that_blocks_and_swallows_errors_is_stopped_too",),
        verl=(
            "test_code_that_blocks_a_worker_fails_its_episode_or_ends_the_run_by_its_line",
            "ray/test_blocked_worker.py::"
            "test_code_that_blocks_an_actor_is_interrupted_or_told_of_by_its_line",
        ),
    ),
    "code holds the interpreter lock, such as a pathological pattern in C": Shown(
        local=("test_held_lock.py::test_code_that_holds_the_lock_ends_the_run_and_is_named",),
        verl=("test_code_that_blocks_a_worker_fails_its_episode_or_ends_the_run_by_its_line",),
        trinity=("test_code_that_holds_the_lock_of_a_runner_ends_the_run_with_its_line",),
    ),
    "a judge hangs, but lets others run": Shown(
        local=("test_a_judge_that_hangs_fails_its_episodes_only",),
        verl=("test_user_code_that_exits_or_hangs_in_a_worker_costs_its_episode_only",),
        trinity=("test_user_code_that_exits_or_hangs_in_a_worker_costs_its_episode_only",),
    ),
    "a worker of the math judge dies or stalls": Shown(
        local=(
            "test_math_judge.py::test_a_worker_that_stalls_leaves_the_verdict_open",
            "test_math_judge.py::test_a_worker_that_is_killed_each_time_leaves_the_verdict_open",
        ),
        verl=("test_user_code_that_exits_or_hangs_in_a_worker_costs_its_episode_only",),
        trinity=("test_user_code_that_exits_or_hangs_in_a_worker_costs_its_episode_only",),
    ),
    "a process of the cluster dies": Shown(
        verl=("test_a_worker_that_dies_ends_the_run_with_its_name",),
        trinity=("test_an_engine_that_is_killed_ends_the_run_with_its_name",),
    ),
    "a machine of the cluster is lost": Shown(
        verl=("ray/test_two_nodes_run.py::test_a_machine_that_is_lost_ends_the_run_and_is_named",)
    ),
}
"""By the first column of the table."""

SAVED_AT_THE_END = "trainer_common.save_freq=99"

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


class Blocking(AdderWorkflow):
    """Waits likewise, and lets nothing else happen."""

    async def execute(self, workflow_task, model_tuner):
        if workflow_task.step == 2:
            print("waiting", flush=True)
            time.sleep(60)
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


def hungry_loss_of_numbers(inputs):
    """The same, of Python in place of torch."""
    asked.append(inputs)
    if len(asked) > 1:
        bytearray(2**56)
    return ppo_clip(inputs)


def broken_loss(inputs):
    asked.append(inputs)
    if len(asked) > 1:
        1 / 0
    return ppo_clip(inputs)
'''


def documented_ways() -> dict[str, list[bool]]:
    """The first column of the table, and which of the last three say yes."""
    page = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    table = page.partition("| what happens |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split(" |")] for line in table]
    return {row[0]: [cell == "yes" for cell in row[-3:]] for row in rows}


def test_the_documented_ways_are_the_tested_ones():
    tested = {
        way: [bool(shown.local), bool(shown.verl), bool(shown.trinity)]
        for way, shown in WAYS.items()
    }
    assert documented_ways() == tested


@pytest.mark.parametrize("way", WAYS)
def test_the_tests_of_a_way_are_there(way):
    shown = WAYS[way]
    engines = {"local": "test_how_runs_end.py", "verl": "ray/test_verl.py"}
    engines["trinity"] = "ray/test_trinity_run.py"
    for engine, own_file in engines.items():
        for name in getattr(shown, engine):
            file, _, function = name.rpartition("::")
            text = (ROOT / "tests" / (file or own_file)).read_text(encoding="utf-8")
            assert f"\ndef {function}(" in text, name


@pytest.fixture
def conf(taught_model: Path, tmp_path: Path) -> Path:  # noqa: F811
    """Three steps that are saved each, without validation, and code of users beside them."""
    write_conf(tmp_path, taught_model)
    path = tmp_path / "adder.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["astuner"]["rollout"]["agentscope_workflow"] = "adder->AdderWorkflow"
    settings["astuner"]["task_judge"]["judge_protocol"] = "adder->judge_sum"
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


def policy_loss(name: str) -> str:
    return f"trainer_common.algorithm.policy_loss=code_of_users->{name}"


def steps_in_metrics(run: ChildRun) -> list[int]:
    return [line["step"] for line in read_json_lines(run.run_dir / "metrics.jsonl")]


def events_in(run: ChildRun) -> list[dict]:
    return list(read_json_lines(run.run_dir / "events.jsonl"))


def end_in_events(run: ChildRun) -> tuple[int, str | None]:
    """The exit code and the kind of the error that the last event tells."""
    last = events_in(run)[-1]
    assert last["event"] == "ended"
    return last["exit_code"], last["error"] and last["error"]["kind"]


def test_a_run_that_is_done_ends_with_0_and_says_where_everything_lies(conf):
    run = start_run(conf)
    assert run.code() == 0
    assert steps_in_metrics(run) == [1, 2, 3]
    assert run.checkpoints() == ["best", "step_1", "step_2", "step_3"]
    assert f"run directory  {run.run_dir}" in run.said
    assert f"checkpoint     {run.run_dir}/checkpoints/step_3" in run.said
    names = [event["event"] for event in events_in(run)]
    assert names == ["started", "planned", "saved", "saved", "saved", "ended"]
    assert end_in_events(run) == (0, None)


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_saves_the_last_whole_step(conf, sent, code):
    run = start_run(conf, workflow("Waiting"), SAVED_AT_THE_END)
    run.wait_until_said("waiting")
    os.kill(run.pid, sent)
    assert run.code() == code
    assert run.checkpoints() == ["step_1"]
    assert f"{sent.name}: stopping" in run.said and "checkpoint     " in run.said
    assert end_in_events(run) == (code, None)


def test_ctrl_c_twice_ends_at_once(conf):
    run = start_run(conf, workflow("Blocking"))
    run.wait_until_said("waiting")
    os.kill(run.pid, signal.SIGINT)
    run.wait_until_said("SIGINT: stopping")
    os.kill(run.pid, signal.SIGINT)
    assert run.code() == 130
    assert run.checkpoints() == ["step_1"]
    assert "ended by SIGINT" in run.said
    assert end_in_events(run) == (130, None)


def test_a_kill_leaves_the_last_checkpoint(conf):
    run = start_run(conf, workflow("Waiting"))
    run.wait_until_said("waiting")
    os.kill(run.pid, signal.SIGKILL)
    assert run.code() == 137
    assert run.checkpoints() == ["step_1"] and steps_in_metrics(run) == [1]
    assert [event["event"] for event in events_in(run)] == ["started", "planned", "saved"]
    again = start_run(conf, resume=True)
    assert again.code() == 0 and "resuming from" in again.said
    starts = [event for event in events_in(again) if event["event"] == "started"]
    assert [start["is_resumed"] for start in starts] == [False, True]
    assert [start["config"] for start in starts] == ["config.yaml", "config_2.yaml"]
    assert end_in_events(again) == (0, None)


def test_a_pause_longer_than_an_episode_may_take_changes_nothing(conf):
    run = start_run(conf, workflow("Pausing"), "rollout.episode_timeout_seconds=6")
    run.wait_until(lambda: is_stopped(run.pid), "it was stopped")
    time.sleep(7)
    os.kill(run.pid, signal.SIGCONT)
    assert run.code() == 0, run.said
    lines = list(read_json_lines(run.run_dir / "metrics.jsonl"))
    assert [line["rollout/failed_episodes"] for line in lines] == [0, 0, 0]


def is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):  # it has ended, which who waits will say
        return False


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
    assert end_in_events(run) == (1, "BackboneError")


@pytest.mark.parametrize("loss", ["hungry_loss", "hungry_loss_of_numbers"])
def test_out_of_memory_in_training_ends_the_run_with_what_to_lower(conf, loss):
    one_batch = "trainer_common.max_token_len_per_gpu=100000"
    run = start_run(conf, policy_loss(loss), one_batch, SAVED_AT_THE_END)
    assert run.code() == 1
    assert run.checkpoints() == ["step_1"]
    assert "out of memory in the training pass" in run.said.splitlines()[-1]
    assert "max_token_len_per_gpu" in run.said


def test_an_unexpected_error_ends_the_run_with_its_traceback(conf):
    one_batch = "trainer_common.max_token_len_per_gpu=100000"
    run = start_run(conf, policy_loss("broken_loss"), one_batch, SAVED_AT_THE_END)
    assert run.code() == 1
    assert run.checkpoints() == ["step_1"]
    assert "ZeroDivisionError" in run.said.splitlines()[-1] and "ZeroDivisionError" in run.log
    assert end_in_events(run) == (1, "ZeroDivisionError")


def test_user_code_that_exits_outside_of_an_episode_ends_the_run_by_name(conf):
    run = start_run(conf, workflow("LeavingTheLoop"), SAVED_AT_THE_END)
    assert run.code() == 1
    assert run.checkpoints() == ["step_1"]
    assert "user code ended the run by sys.exit(None)" in run.said
    assert end_in_events(run) == (1, "BackboneError")


def test_a_judge_that_hangs_fails_its_episodes_only(conf):
    judge = "task_judge.judge_protocol=code_of_users->HangingJudge"
    settings = ("task_judge.judge_timeout_seconds=0.5", "trainer_common.total_training_steps=1")
    run = start_run(conf, judge, *settings)
    assert run.code() == 0, run.said
    (step,) = read_json_lines(run.run_dir / "metrics.jsonl")
    assert step["rollout/failed_episodes"] == 2
    assert "judge" in run.said
