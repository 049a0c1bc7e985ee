"""A whole run whose tasks are dealt by how often they are solved, also one that is interrupted."""

import pytest
import yaml

pytest.importorskip("torch")

from astuner.cli import main
from astuner.run_dir import read_json_lines
from tests.test_mixture_run import run, tasks_of
from tests.tiny_model import make_tiny_model

CODE = """
from astuner import WorkflowOutput


async def ask(workflow_task, model_tuner):
    task = workflow_task.task
    await model_tuner([{"role": "user", "content": task.main_query}])
    return WorkflowOutput(reward=float(workflow_task.attempt < int(task.task_id[-1]) % 3))
"""


@pytest.fixture
def conf(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    make_tiny_model(tmp_path / "model")
    (tmp_path / "mine.py").write_text(CODE)
    settings = {
        "model": {"path": "model", "dtype": "float32"},
        "task_reader": {"type": "random_dummy", "random_dummy": {"num_tasks": 9}},
        "data": {
            "train_batch_size": 3,
            "max_prompt_length": 100,
            "max_response_length": 100,
            "max_validation_tasks": 1,
        },
        "rollout": {
            "agentscope_workflow": "mine.py->ask",
            "num_repeat": 2,
            "max_response_length_in_one_turn": 4,
            "max_model_len": 200,
            "compute_madness_checklist": [],
        },
        "trainer_common": {
            "total_training_steps": 6,
            "total_epochs": 2,
            "save_freq": 1,
            "test_freq": 99,
            "val_before_train": False,
            "curriculum": {"enabled": True, "weights": {"easy": 0.0}},
            "algorithm": {"dynamic_sampling_max_batches": 1},
        },
    }
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump({"astuner": settings}))
    return "mixed.yaml"


def test_a_run_that_was_interrupted_deals_what_a_whole_one_does(conf, capsys):
    whole = run(conf, "whole")
    assert "curriculum: 9 unknown, 0 easy, 0 medium, 0 hard" in capsys.readouterr().err
    lines = list(read_json_lines(whole.metrics_file))
    dealt, pools = (
        [{n: line[f"curriculum/{kind}_{n}"] for n in ("unknown", "medium")} for line in lines]
        for kind in ("dealt", "pool")
    )
    assert lines[0]["rollout/refills"] == 1
    assert dealt[0]["unknown"] == lines[0]["rollout/episodes"] / 2 == len(tasks_of(whole, 1))
    assert pools[0]["unknown"] == 9 - len(tasks_of(whole, 1))
    assert dealt[-1]["medium"] > 0

    run(conf, "parts", "astuner.trainer_common.total_training_steps=3")
    capsys.readouterr()
    parts = run(conf, "parts", "--resume")
    told = " ".join(capsys.readouterr().err.split())
    assert f"curriculum: {pools[2]['unknown']:.0f} unknown" in told
    steps = range(1, 7)
    assert [tasks_of(parts, step) for step in steps] == [tasks_of(whole, step) for step in steps]

    changed = "astuner.trainer_common.curriculum.enabled=false"
    more = [f"astuner.trainer_common.{key}=7" for key in ("total_training_steps", "total_epochs")]
    assert main(["--conf", conf, "--exp-dir", "parts", "--resume", changed, *more]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "trainer_common.curriculum.enabled: True → False" in told
    assert len(tasks_of(parts, 7)) >= 3
