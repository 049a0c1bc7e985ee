"""Warm starts in whole commands: a real tiny model learns given replies and then says them."""

import asyncio
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml

from astuner import AstunerJob
from astuner.backbone.local.warm_start import warm_start
from astuner.cli import main
from astuner.config.load import load_config
from astuner.console import RunConsole
from astuner.inference.template import ChatTemplate
from astuner.models.checkpoint import read_record
from astuner.models.load import load_policy
from astuner.run_dir import RunDir, read_json_lines
from tests.runs import make_run
from tests.tiny_model import make_tiny_model

ASKER = """
from astuner import Workflow, WorkflowOutput

class Asker(Workflow):
    name: str = "asker"

    async def execute(self, workflow_task, model_tuner):
        client = model_tuner.as_raw_openai_sdk_client()
        messages = [{"role": "user", "content": workflow_task.task.main_query}]
        await client.chat.completions.create(model="m", messages=messages)
        return WorkflowOutput(reward=float(workflow_task.attempt), is_success=True)
"""
QUESTION, REPLY = "What is 2 plus 3?", "Ahoy! 5"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_tiny_model(folder, texts=[f"{QUESTION} {REPLY} Ahoy!"] * 20)
    return folder


@pytest.fixture
def folder(model, tmp_path, monkeypatch):
    """The current folder, with a YAML, an agent, tasks and conversations."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asker.py").write_text(ASKER)
    tasks = [{"main_query": QUESTION, "task_id": str(i), "metadata": {}} for i in range(2)]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)) + "\n")
    chat = {"messages": [user(QUESTION), assistant(REPLY)]}
    odd = {"messages": [user(QUESTION), assistant("")]}
    lines = "\n".join(json.dumps(one) for one in [chat] * 8 + [odd])
    (tmp_path / "chats.jsonl").write_text(lines + "\n")
    files = {"file_path": "tasks.jsonl"}
    settings = {
        "model": {"path": str(model), "dtype": "float32"},
        "task_reader": {
            "type": "jsonl_dataset_file",
            "jsonl_dataset_file": {"training": files, "validation": {"file_path": None}},
        },
        "data": {"train_batch_size": 1, "max_prompt_length": 60, "max_response_length": 20},
        "rollout": {
            "agentscope_workflow": "asker.py->Asker",
            "num_repeat": 2,
            "max_model_len": 100,
            "max_response_length_in_one_turn": 10,
        },
        "task_judge": {"judge_protocol": None},
        "trainer_common": {
            "total_training_steps": 1,
            "warm_start": {
                "from": "traces",
                "path": "chats.jsonl",
                "epochs": 10,
                "lr": 0.01,
                "batch_size": 4,
                "validation_share": 0.25,
            },
        },
    }
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump({"astuner": settings}))
    return tmp_path


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def command(capsys, *words):
    """Exit code, and what stood on the screen in one line."""
    code = main([*words[:1], "--conf", "shop.yaml", *words[1:]] if words[:1] == ("sft",) else [
        "--conf", "shop.yaml", *words
    ])  # fmt: skip
    return code, " ".join(capsys.readouterr().err.split())


def newest():
    return RunDir(root=Path("launcher_record/shop/latest").resolve())


def says(path, question=QUESTION):
    """What a model says greedily, as transformers samples it."""
    policy = load_policy(str(path), dtype="float32", device="cpu")
    template, model = ChatTemplate(policy.tokenizer), cast(Any, policy.model)
    prompt = template.prompt_ids([{"role": "user", "content": question}], [])
    ids = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=20,
        do_sample=False,
    )
    return policy.tokenizer.decode(ids[0, len(prompt) :])


def test_a_model_says_what_it_was_taught_and_stops_there(folder, capsys):
    code, screen = command(capsys, "sft")
    assert code == 0
    run = newest()
    lines = list(read_json_lines(run.warm_start_file))
    assert [line["step"] for line in lines] == list(range(21))
    name = "warm_start/validation_loss"
    held_out = [line[name] for line in lines if name in line]
    assert len(held_out) == 11 and held_out[-1] < 0.05 < held_out[0]
    assert lines[1]["warm_start/loss"] > lines[-1]["warm_start/loss"]
    assert says(run.warm_start_dir) == f"{REPLY}<|im_end|>"
    assert "1 refused: chats.jsonl, line 9: message 1: the assistant says nothing" in screen
    assert "6 conversations, 2 more held out; 20 updates" in screen
    for words in ("to tune on", "to evaluate", "to export", "to serve"):
        assert words in screen
    assert not run.metrics_file.exists()
    record = read_record(run.warm_start_dir)
    assert record["warm_start"]["loss_after"] == pytest.approx(held_out[-1])


def test_the_first_rollout_is_of_the_model_that_was_warmed_and_a_resumed_run_is_too(folder, capsys):
    code, _ = command(capsys)
    assert code == 0
    run = newest()
    before = read_record(run.warm_start_dir)
    (line,) = read_json_lines(run.metrics_file)
    assert line["train/logprob_gap_mean"] < 1e-3
    assert line["train/kl"] == pytest.approx(0.0, abs=1e-4)  # the reference is what it began from
    replies = [call["reply"]["content"] for call in sampled(run)]
    assert replies == [REPLY, REPLY]
    shutil.rmtree(run.checkpoint_dir(1))  # as if killed before it was saved
    code, screen = command(capsys, "--resume")
    assert code == 0 and newest() == run
    assert "done by an earlier start" in screen and "resuming from the warm start" in screen
    assert read_record(run.warm_start_dir) == before
    assert [line["step"] for line in read_json_lines(run.metrics_file)] == [1]
    assert len(list(run.set_aside_dir.rglob("step_000001.jsonl"))) == 2
    code, screen = command(capsys, "--resume", "astuner.trainer_common.warm_start.epochs=3")
    assert code == 2 and "warm_start.epochs" in screen


def sampled(run):
    (file,) = run.step_files()
    return [call for record in read_json_lines(file) for call in record["calls"]]


def test_an_adapter_is_warmed_and_trained_further(folder, capsys):
    pytest.importorskip("peft")
    key = "astuner.trainer_common.warm_start"
    lora = ("astuner.model.lora.rank=8", f"{key}.lr=0.05", f"{key}.epochs=5")
    code, _ = command(capsys, *lora)
    assert code == 0
    run = newest()
    assert (run.warm_start_dir / "adapter_config.json").is_file()
    learned = read_record(run.warm_start_dir)["warm_start"]
    assert learned["loss_after"] < learned["loss_before"] - 0.2
    (line,) = read_json_lines(run.metrics_file)  # of neither the base nor a new adapter
    assert line["train/kl"] == pytest.approx(0.0, abs=1e-3)
    assert line["train/logprob_gap_mean"] < 1e-3


def test_reference_answers_of_tasks_are_learned(folder, capsys):
    rows = [
        {"main_query": QUESTION, "task_id": str(i), "metadata": {"answer": REPLY} if i else {}}
        for i in range(4)
    ]
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    key = "astuner.trainer_common.warm_start"
    code, screen = command(
        capsys, "sft", f"{key}.from=tasks", f"{key}.path=null", f"{key}.epochs=1"
    )
    assert code == 0
    assert "3 conversations, 0 more held out; 1 updates" in screen
    assert "1 left out: no text or number in metadata under answer" in screen


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"path": "odd.jsonl"}, "nothing is left to learn from: .*odd.jsonl, line 1"),
        ({"path": "gone.jsonl"}, "warm_start.path: nothing is there; looked for .*gone.jsonl"),
        ({"path": "null"}, "no training task was made of a trace"),
        ({"from": "null"}, "warm_start.from is null"),
        ({"from": "tasks"}, "takes the tasks of the reader"),
        ({"max_length": "200"}, "max_length.*is more than.*max_model_len"),
    ],
)
def test_what_cannot_be_learned_from_is_said(folder, capsys, changed, why):
    (folder / "odd.jsonl").write_text(json.dumps({"messages": [user("x")]}) + "\n")
    given = [f"astuner.trainer_common.warm_start.{key}={value}" for key, value in changed.items()]
    code, screen = command(capsys, "sft", *given)
    assert code in (1, 2)
    assert re.search(why, screen), screen


@pytest.mark.parametrize("backbone", ["verl", "trinity"])
def test_clustered_backbones_say_how_to_begin_from_a_warm_start(folder, capsys, backbone):
    code, screen = command(capsys, f"--backbone={backbone}")
    assert code == 2
    assert "make it first by `astuner sft --conf FILE`" in screen and "model.path" in screen


class _Ending(RunConsole):
    """Asks for the end in the middle of the warm start."""

    def advance(self, done, total, note=""):
        if total:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_warm_start_that_is_ended_leaves_no_checkpoint(folder):
    loaded = load_config(Path("shop.yaml"))
    run_dir = RunDir.create(loaded.experiment_dir, loaded.experiment_name)
    run = make_run(loaded, run_dir)
    run = replace(run, console=_Ending(run.console._console, is_live=False))
    ended = asyncio.run(warm_start(run, []))
    assert ended.exit_code == 130
    assert len(list(read_json_lines(run_dir.warm_start_file))) < 21
    assert not run_dir.can_be_resumed and not run_dir.checkpoints_dir.exists()


def test_a_job_learns_in_python_what_the_command_learns(folder):
    job = AstunerJob().build_job_from_yaml("shop.yaml").set("experiment_name", "shop")
    result = job.set("backbone", "verl").set("trainer_common.warm_start.epochs", 1).sft()
    assert result.checkpoint is not None
    assert result.checkpoint == RunDir(root=result.run_dir).warm_start_dir
    assert read_record(result.checkpoint)["warm_start"]["updates"] == 2
