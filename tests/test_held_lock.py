"""Code that holds the interpreter lock: it ends the run by name, and nothing else is blamed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest
import yaml

from astuner.rollout import lock_supervisor
from astuner.rollout.lock_supervisor import Plan, describe_holder
from tests.child_runs import run_command

HOLDERS = """
import itertools, re
from astuner import WorkflowOutput

def rewarded(workflow_task, model_tuner):
    return WorkflowOutput(metadata={})

async def holds(workflow_task, model_tuner):
    return WorkflowOutput(reward=float(sum(itertools.repeat(1))))

def by_pattern(workflow_task, workflow_output):
    return float(bool(re.match(r"(a+)+$", "a" * 40 + "b"))), True

def by_pattern_of_one(workflow_task, workflow_output):
    if workflow_task.attempt == 0:
        by_pattern(workflow_task, workflow_output)
    return 0.5, True

def raises(workflow_task, workflow_output):
    raise ValueError("no such answer")

async def in_the_loop(workflow_task, workflow_output):
    return float(bool(re.match(r"(a+)+$", "a" * 40 + "b"))), True
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "holders.py").write_text(HOLDERS)
    settings = {
        "backbone": "debug",
        "task_reader": {"type": "random_dummy"},
        "task_judge": {"judge_timeout_seconds": 0.5},
        "rollout": {
            "agentscope_workflow": "holders.py->rewarded",
            "num_repeat": 1,
            "lock_timeout_seconds": 1.5,
        },
        "debug": {"openai_base_url": "http://127.0.0.1:9/v1", "openai_model": "none"},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"astuner": settings}))
    return tmp_path


def tune(project: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    return run_command(["--conf", "job.yaml", *settings], folder=project)


@pytest.mark.parametrize(
    ("setting", "line", "function"),
    [
        ("task_judge.judge_protocol='holders.py->by_pattern'", 12, "by_pattern"),
        ("rollout.agentscope_workflow='holders.py->holds'", 9, "holds"),
    ],
)
def test_code_that_holds_the_lock_ends_the_run_and_is_named(project, setting, line, function):
    ended = tune(project, f"astuner.{setting}")
    assert ended.returncode == -signal.SIGKILL
    place = f"{project / 'holders.py'}:{line} ({function})"
    last = ended.stderr.splitlines()[-1]
    assert f"{place} holds the interpreter lock" in last
    assert "1.5 s (rollout.lock_timeout_seconds)" in last and "judge_in_process" in last
    assert "Where the run has a checkpoint, --resume goes on" in last  # debug has none
    log = next(project.glob("launcher_record/job/2*/run.log")).read_text()
    assert place in log and "most recent call first" in log


def test_under_a_log_of_objects_the_holder_is_named_by_one(project):
    ended = tune(
        project,
        "astuner.task_judge.judge_protocol='holders.py->by_pattern'",
        "astuner.log.format=json",
    )
    log = next(project.glob("launcher_record/job/2*/run.log")).read_text()
    for text in (ended.stderr, log):
        last = [json.loads(line) for line in text.splitlines()][-1]
        assert "(by_pattern) holds the interpreter lock" in last["message"]
        assert "Current thread" in last["error.stack_trace"]


def test_a_judge_in_a_process_that_holds_the_lock_fails_its_episode_alone(project):
    ended = tune(
        project,
        "astuner.task_judge.judge_protocol='holders.py->by_pattern_of_one'",
        "astuner.task_judge.judge_in_process=true",
        "astuner.task_judge.judge_timeout_seconds=10",
        "astuner.rollout.num_repeat=2",
        "astuner.rollout.max_failed_fraction=1",
        "astuner.debug.debug_first_n_tasks=1",
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "FAILED JudgeError: judge holders.py->by_pattern_of_one" in ended.stderr
    assert "2 episodes, 1 failed, reward mean 0.5" in ended.stderr


def test_what_a_judge_in_a_process_raises_is_told_with_its_line(project):
    ended = tune(
        project,
        "astuner.task_judge.judge_protocol='holders.py->raises'",
        "astuner.task_judge.judge_in_process=true",
        "astuner.task_judge.judge_timeout_seconds=30",
        "astuner.rollout.max_failed_fraction=1",
    )
    assert "ValueError: no such answer" in ended.stderr and "holders.py" in ended.stderr


def test_what_looks_for_signals_in_the_main_thread_fails_its_episode_alone(project):
    ended = tune(
        project,
        "astuner.task_judge.judge_protocol='holders.py->in_the_loop'",
        "astuner.rollout.episode_timeout_seconds=2",
        "astuner.rollout.lock_timeout_seconds=30",
        "astuner.rollout.max_failed_fraction=1",
    )
    assert ended.returncode == 0
    assert "holders.py:23; await it" in ended.stderr and "2 episodes, 2 failed" in ended.stderr


SUPERVISED = """
import os, sys, threading, time
from astuner.rollout.held_lock import lock_supervised, take_leave
with lock_supervised(1.0, advice="", limit_name="limit"):
    print("inside", flush=True)
    {body}
print("done", flush=True)
"""


def supervised(body: str, stderr: IO[str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISED.format(body=body)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def test_a_stopped_process_is_blamed_for_nothing():
    with supervised("sys.stdin.readline()") as process:
        assert process.stdout.readline() == "inside\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(3.0)
        process.send_signal(signal.SIGCONT)
        assert process.communicate("on\n", timeout=60)[0] == "done\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(3)",  # as torch does, it lets go of the lock
        "end = time.monotonic() + 3\n    while time.monotonic() < end: pass",
    ],
)
def test_code_that_lets_others_have_the_lock_may_go_on(body):
    with supervised(body) as process:
        assert process.communicate(timeout=60)[0] == "inside\ndone\n"
    assert process.returncode == 0


def children_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in found.split()]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_the_supervisor_ends_with_a_process_that_is_killed():
    with supervised("time.sleep(60)") as process:
        process.stdout.readline()
        (supervisor,) = children_of(process.pid)
        process.kill()
    deadline = time.monotonic() + 60
    while not is_gone(supervisor) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_gone(supervisor)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("import os; os._exit(0)", 0),
        ("import os; os.abort()", -signal.SIGABRT),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("import os; os.execvp('true', ['true'])", 0),
    ],
)
def test_a_process_that_ends_inside_without_a_word_is_told_of(body, code, tmp_path):
    with (tmp_path / "stderr").open("w") as stderr:
        process = supervised(body, stderr=stderr)
    assert process.communicate(timeout=60)[0] == "inside\n" and process.returncode == code
    said = f"process {process.pid} ended within the run and said nothing"
    deadline = time.monotonic() + 60
    while said not in (tmp_path / "stderr").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert said in (tmp_path / "stderr").read_text()


@pytest.mark.parametrize(
    "body",
    [
        "pass",
        "sys.exit(3)",
        "raise ValueError('of its own')",
        "take_leave(); os._exit(3)",
        "take_leave(); time.sleep(1.5); os._exit(3)",  # its thread beats on after the farewell
    ],
)
def test_of_one_that_leaves_in_order_nothing_is_told(body, tmp_path):
    with (tmp_path / "stderr").open("w") as stderr:
        process = supervised(body, stderr=stderr)
    process.communicate(timeout=60)  # its end waits for the supervisor
    assert "said nothing" not in (tmp_path / "stderr").read_text()


@pytest.mark.parametrize(("signs", "is_told"), [(b"..!", False), (b"!.", False), (b"..", True)])
def test_a_farewell_counts_though_the_process_has_gone_before_it_is_read(signs, is_told):
    assert (b"said nothing" in supervisor_of_one_that_is_gone(signs)) == is_told


def test_of_one_whose_end_another_tells_nothing_is_said():
    assert supervisor_of_one_that_is_gone(b"..", tells_of_end=False) == b""


def supervisor_of_one_that_is_gone(signs: bytes, *, tells_of_end: bool = True) -> bytes:
    """What it says on standard error."""
    gone = Plan(0, 1.0, 0, 0, 0, [], "limit", "", None, False, tells_of_end)._asdict()
    supervisor = subprocess.run(
        [sys.executable, lock_supervisor.__file__, json.dumps(gone)],
        input=signs,
        capture_output=True,
        timeout=60,
        check=True,
    )
    return supervisor.stderr


def test_a_supervisor_that_is_killed_takes_nothing_along():
    with supervised("sys.stdin.readline()") as process:
        process.stdout.readline()
        os.kill(*children_of(process.pid), signal.SIGKILL)
        time.sleep(1.5)
        assert process.communicate("on\n", timeout=60)[0] == "done\n"


STACKS = """Current thread 0x02 (most recent call first):
  File "/lib/re/__init__.py", line 166 in match
  File "/home/a/judge.py", line 4 in compute_reward
  File "/lib/threading.py", line 982 in run
"""


def test_the_holder_is_the_innermost_line_of_the_user():
    assert describe_holder(STACKS, ["/lib"]) == "/home/a/judge.py:4 (compute_reward)"


def test_where_no_line_is_the_users_the_innermost_is_named():
    assert describe_holder(STACKS, ["/"]) == "/lib/re/__init__.py:166 (match)"
    assert describe_holder("", []) == "code that cannot be named"
