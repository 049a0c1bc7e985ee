"""A whole run over two sources, each with a workflow, one with a judge of its own."""

from pathlib import Path

import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("agentscope")

from astuner.cli import main
from astuner.run_dir import RunDir, read_json_lines
from tests.tiny_model import make_tiny_model

CODE = """
from astuner import WorkflowOutput
from astuner.task_judge import BaseJudge


async def ask(workflow_task, model_tuner):
    await model_tuner([{"role": "user", "content": workflow_task.task.main_query}])
    return WorkflowOutput(reward=float(workflow_task.attempt % 2))


async def ask_unjudged(workflow_task, model_tuner):
    output = await ask(workflow_task, model_tuner)
    return WorkflowOutput(metadata={"asked": workflow_task.task.source})


class Judge(BaseJudge):
    def compute_reward(self, workflow_task, workflow_output):
        assert workflow_output.metadata["asked"] == "judged"
        return 0.25, True
"""


@pytest.fixture
def conf(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    make_tiny_model(tmp_path / "model")
    (tmp_path / "mine.py").write_text(CODE)
    judged = {"workflow": "mine.py->ask_unjudged", "judge": "mine.py->Judge"}
    sources = {
        "plain": {"share": 3, "type": "random_dummy", "random_dummy": {"num_tasks": 20}},
        "judged": {"type": "random_dummy", "random_dummy": {"num_tasks": 3}, **judged},
    }
    settings = {
        "model": {"path": "model", "dtype": "float32"},
        "task_reader": {"type": "mixture", "mixture": {"sources": sources}},
        "data": {"train_batch_size": 4, "max_validation_tasks": 4},
        "rollout": {
            "agentscope_workflow": "mine.py->ask",
            "num_repeat": 2,
            "max_response_length_in_one_turn": 4,
            "max_model_len": 200,
            "compute_madness_checklist": [],
        },
        "trainer_common": {"total_training_steps": 3, "test_freq": 3, "save_freq": 1},
    }
    settings["data"] |= {"max_prompt_length": 100, "max_response_length": 100}
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump({"astuner": settings}))
    return "mixed.yaml"


def run(conf, folder, *arguments):
    assert main(["--conf", conf, "--exp-dir", folder, *arguments]) == 0
    found = RunDir.latest(Path(folder), "mixed")
    assert found is not None
    return found


def tasks_of(run_dir, step):
    records = read_json_lines(run_dir.episodes_file(step, "train"))
    return {record["task"]["task_id"] for record in records}


def test_each_source_has_its_share_its_code_and_its_metrics_also_when_the_run_goes_on(conf):
    whole = run(conf, "whole")
    for step in (1, 2, 3):
        sources = sorted(task.partition("/")[0] for task in tasks_of(whole, step))
        assert sources == ["judged", "plain", "plain", "plain"]
    last = list(read_json_lines(whole.metrics_file))[-1]
    assert last["reward/mean/source/plain"] == 0.5
    assert last["reward/mean/source/judged"] == 0.25
    assert last["validation/episodes/source/judged"] == 2
    assert last["validation/success_rate/source/judged"] == 1.0
    assert last["rollout/failed_episodes"] == 0

    run(conf, "parts", "astuner.trainer_common.total_training_steps=1")
    parts = run(conf, "parts", "--resume")
    assert [tasks_of(parts, step) for step in (1, 2, 3)] == [
        tasks_of(whole, step) for step in (1, 2, 3)
    ]
