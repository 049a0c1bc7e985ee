"""The time that a run has after SIGTERM, whatever hangs: real signals to real processes."""

import os
import signal
from pathlib import Path

import pytest
import yaml

from tests.child_runs import ChildCommand, start_command

HANGING = """
import asyncio, os, time
from astuner import WorkflowOutput

def tell():
    os.write(1, b"at work\\n")  # whole, from whichever thread

async def swallows(workflow_task, model_tuner):
    tell()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

async def blocks(workflow_task, model_tuner):
    tell()
    time.sleep(600)

async def blocks_and_swallows(workflow_task, model_tuner):
    tell()
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

def blocks_a_thread(workflow_task, model_tuner):
    tell()
    time.sleep(600)

async def rewarded(workflow_task, model_tuner):
    return WorkflowOutput(metadata={})

def sleeping_judge(workflow_task, workflow_output):
    tell()
    time.sleep(600)

async def blocks_in_the_second_step(workflow_task, model_tuner):
    if workflow_task.step == 2:
        await blocks(workflow_task, model_tuner)
    messages = [{"role": "user", "content": "What is 2 plus 3?"}]
    await model_tuner.as_raw_openai_sdk_client().chat.completions.create(
        model="m", messages=messages
    )
    return WorkflowOutput(reward=float(workflow_task.attempt))
"""


def start(folder: Path, settings: dict, *changes: str) -> ChildCommand:
    """The run, once its user code is at work."""
    (folder / "hanging.py").write_text(HANGING)
    (folder / "job.yaml").write_text(yaml.safe_dump({"astuner": settings}))
    reader, writer = os.pipe()
    with (folder / "stderr").open("w") as said, os.fdopen(reader) as stdout:
        process = start_command(
            ["--conf", "job.yaml", *changes], folder=folder, stdout=writer, stderr=said.fileno()
        )
        os.close(writer)
        if (told := stdout.readline()) != "at work\n":
            process.kill()
            pytest.fail(f"{told!r}: {(folder / 'stderr').read_text()}")
    return process


def ended(process: ChildCommand, folder: Path, sent: signal.Signals) -> tuple[int, str]:
    """Its exit code after the signal, and what it said."""
    process.send_signal(sent)
    return process.wait(), (folder / "stderr").read_text()


def debug_settings(**rollout: object) -> dict:
    return {
        "backbone": "debug",
        "task_reader": {"type": "random_dummy"},
        "rollout": {"num_repeat": 1, **rollout},
        "debug": {"openai_base_url": "http://127.0.0.1:9/v1", "openai_model": "none"},
        "trainer_common": {"grace_seconds": 20},
    }


@pytest.mark.parametrize(
    ("workflow", "judge"),
    [
        ("swallows", None),
        ("blocks", None),
        ("blocks_a_thread", None),
        ("rewarded", "hanging.py->sleeping_judge"),
    ],
)
def test_a_run_whose_code_hangs_ends_in_order_within_its_grace(tmp_path, workflow, judge):
    settings = debug_settings(agentscope_workflow=f"hanging.py->{workflow}")
    settings["task_judge"] = {"judge_protocol": judge}
    process = start(tmp_path, settings)
    code, said = ended(process, tmp_path, signal.SIGTERM)
    assert code == 143
    assert "SIGTERM: stopping" in said and "run directory" in said.rpartition("stopping")[2]
    assert "did not end" not in said


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_what_nothing_interrupts_is_left_behind_and_the_loss_is_said(tmp_path, sent, code):
    settings = debug_settings(agentscope_workflow="hanging.py->blocks_and_swallows")
    process = start(tmp_path, settings, "astuner.trainer_common.grace_seconds=3")
    found, said = ended(process, tmp_path, sent)
    assert found == code
    last = said.splitlines()[-1]
    assert f"{sent.name}: the run did not end within 3 s (trainer_common.grace_seconds)" in last
    assert "no checkpoint was saved before" in last


def test_a_workflow_that_blocks_does_not_keep_the_last_step_from_being_saved(tmp_path):
    pytest.importorskip("torch")
    from tests.tiny_model import make_tiny_model

    make_tiny_model(tmp_path / "model")
    settings = {
        "model": {"path": str(tmp_path / "model")},
        "task_reader": {"type": "random_dummy"},
        "data": {
            "train_batch_size": 1,
            "max_prompt_length": 128,
            "max_response_length": 64,
        },
        "rollout": {
            "agentscope_workflow": "hanging.py->blocks_in_the_second_step",
            "num_repeat": 2,
            "max_response_length_in_one_turn": 8,
            "max_model_len": 256,
        },
        "trainer_common": {"grace_seconds": 30, "save_freq": 50, "use_kl_loss": False},
    }
    process = start(tmp_path, settings)
    code, said = ended(process, tmp_path, signal.SIGTERM)
    assert code == 143, said
    assert list(tmp_path.glob("launcher_record/job/2*/checkpoints/step_1/manifest.json"))
