"""`AstunerJob`: the same settings and messages as the command, from Python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from astuner import AstunerJob, Workflow, WorkflowOutput
from astuner.config import load_config
from astuner.errors import ConfigError

pytest.importorskip("openai")


class Rewarding(Workflow):
    async def execute(self, workflow_task, model_tuner):
        return WorkflowOutput(reward=float(workflow_task.attempt))


SETTINGS = {
    "task_reader": {"type": "random_dummy"},
    "rollout": {"num_repeat": 2},
    "debug": {"openai_base_url": "http://127.0.0.1:9/v1", "openai_model": "none"},
}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AstunerJob:
    """A job of the debug backbone whose workflow asks no model, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    job = AstunerJob(backbone="debug").set_workflow(Rewarding)
    for section, settings in SETTINGS.items():
        for key, value in settings.items():
            job.set(f"{section}.{key}", value)
    return job


def test_a_job_runs_and_is_named_after_its_project(job):
    result = job.set("project_name", "sums/small").tune()
    assert result.metrics["rollout/episodes"] == 4
    assert result.run_dir.parent == Path("launcher_record/sums-small").absolute()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("rollout.num_repeats", 2, "known key is astuner.rollout.num_repeat"),
        ("rollout.num_repeat", "two", "found 'two' (str), expected a valid integer"),
        ("data.max_prompt_length", 99999, "max_prompt_length = 99999 (AstunerJob) leaves no room"),
    ],
)
def test_a_wrong_setting_is_one_of_the_job(job, key, value, said):
    with pytest.raises(ConfigError) as caught:
        job.set(key, value).tune()
    assert said in str(caught.value) and "AstunerJob" in str(caught.value)
    assert ".yaml" not in str(caught.value).replace("astuner_default.yaml", "")


def test_a_key_may_begin_with_astuner_and_a_value_may_be_a_path(job):
    job.set("astuner.model.path", Path("models") / "small")
    job.dump_job_as_yaml("job.yaml")
    assert load_config(Path("job.yaml")).settings.model.path == "models/small"


def test_a_key_below_a_value_is_refused(job):
    with pytest.raises(ConfigError, match=r"model\.path is 'small', not a section"):
        job.set("model.path", "small").set("model.path.name", "small")


def test_a_workflow_that_is_none_is_refused(job):
    with pytest.raises(ConfigError, match="found 3, expected a subclass of Workflow"):
        job.set_workflow(3)


def test_a_yaml_gives_its_settings_and_the_places_where_it_is_looked_for(job, tmp_path):
    Path("agent").mkdir()
    settings = SETTINGS | {
        "task_reader": {
            "type": "jsonl_dataset_file",
            "jsonl_dataset_file": {"training": {"file_path": "tasks.jsonl"}},
        },
        "rollout": {"agentscope_workflow": "rewarding->Rewarding", "num_repeat": 3},
    }
    Path("agent/job.yaml").write_text(yaml.safe_dump({"defaults": ["base"], "astuner": settings}))
    Path("agent/base.yaml").write_text("verl: {x: 1}\n")
    Path("agent/tasks.jsonl").write_text('{"main_query": "?"}\n')
    Path("agent/rewarding.py").write_text(
        "from astuner import Workflow, WorkflowOutput\n"
        "class Rewarding(Workflow):\n"
        "    async def execute(self, workflow_task, model_tuner):\n"
        "        return WorkflowOutput(reward=1.0)\n"
    )
    result = AstunerJob(backbone="debug").build_job_from_yaml("agent/job.yaml").tune()
    assert result.metrics["rollout/episodes"] == 3
    assert "verl:\n  x: 1\n" in (result.run_dir / "config.yaml").read_text()


@pytest.mark.parametrize(("text", "said"), [(None, "no such file"), ("a: [", "is not YAML")])
def test_a_yaml_that_cannot_be_read_is_a_config_error(job, text, said):
    if text is not None:
        Path("job.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        job.build_job_from_yaml("job.yaml")


def test_the_yaml_of_a_script_names_the_workflow_by_its_file(tmp_path):
    script = tmp_path / "my_job.py"
    script.write_text(
        "from astuner import AstunerJob, Workflow\n"
        "class Mine(Workflow):\n"
        "    async def execute(self, workflow_task, model_tuner): ...\n"
        "AstunerJob(model='m').set_workflow(Mine).dump_job_as_yaml('job.yaml')\n"
    )
    subprocess.run([sys.executable, script.name], cwd=tmp_path, check=True, env=_environment())
    settings = yaml.safe_load((tmp_path / "job.yaml").read_text())["astuner"]
    assert settings["rollout"]["agentscope_workflow"] == f"{script}->Mine"


def _environment():
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
