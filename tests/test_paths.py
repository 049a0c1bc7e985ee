"""User code that changes the current directory moves nothing of the run."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("agentscope")
pytest.importorskip("torch")

from astuner.backbone.cluster.engine_run import engine_state_dir
from astuner.backbone.worker_run import WorkerRun
from astuner.cli import main
from astuner.config.load import load_config
from astuner.errors import BackboneError
from astuner.imports import fix_sys_path
from astuner.launch import launch
from astuner.run_dir import RunDir, read_json_lines
from tests.runs import make_run
from tests.test_local_run import taught_model, write_conf  # noqa: F401

WORKFLOWS = """\
import os
import shutil
from pathlib import Path

from astuner import Workflow, WorkflowOutput
from tests.agents.adder import AdderWorkflow

HOME = Path.cwd()

class Wandering(AdderWorkflow):
    async def execute(self, workflow_task, model_tuner):
        os.chdir("elsewhere" if Path.cwd() == HOME else "..")
        return await super().execute(workflow_task, model_tuner)

class Rewarding(Workflow):
    async def execute(self, workflow_task, model_tuner):
        os.chdir(HOME / "elsewhere")
        import neighbour
        return WorkflowOutput(reward=neighbour.REWARD)

class Deleting(Workflow):
    async def execute(self, workflow_task, model_tuner):
        shutil.rmtree(HOME / "launcher_record")
        return WorkflowOutput(reward=1.0)

class Moving(Workflow):
    async def execute(self, workflow_task, model_tuner):
        runs = HOME / "launcher_record"
        if runs.is_dir():
            runs.rename(HOME / "moved")
        return WorkflowOutput(reward=1.0)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with workflows and a folder `elsewhere` that they go to."""
    folder = tmp_path / "project"
    (folder / "elsewhere").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"flows_{abs(hash(str(tmp_path)))}"
    Path(f"{name}.py").write_text(WORKFLOWS)
    Path("neighbour.py").write_text("REWARD = 1.0\n")
    Path("elsewhere/neighbour.py").write_text("REWARD = 0.0\n")
    monkeypatch.delitem(sys.modules, "neighbour", raising=False)
    settings = {
        "backbone": "debug",
        "task_reader": {"type": "random_dummy"},
        "rollout": {"agentscope_workflow": f"{name}.py->Rewarding", "num_repeat": 2},
        "debug": {"openai_base_url": "http://127.0.0.1:9/v1", "openai_model": "none"},
    }
    Path("job.yaml").write_text(yaml.safe_dump({"astuner": settings}))
    return folder


def with_workflow(project: Path, name: str) -> str:
    (file,) = project.glob("flows_*.py")
    return f"astuner.rollout.agentscope_workflow='{file.name}->{name}'"


def test_a_workflow_that_changes_the_folder_leaves_a_local_run_where_it_began(
    project: Path,
    taught_model: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_conf(project, taught_model)
    shutil.copytree(taught_model, "model")
    changes = [
        "astuner.model.path=model",
        "astuner.experiment_dir=runs",
        with_workflow(project, "Wandering"),
    ]
    result = launch(load_config(Path("adder.yaml"), changes))
    assert result.checkpoint is not None and result.checkpoint.is_absolute()
    assert (result.checkpoint / "model.safetensors").is_file()
    assert result.run_dir.parent == project / "runs" / "adder"
    assert len(list(result.run_dir.glob("episodes/*.jsonl"))) == 5
    assert [path.name for path in (project / "elsewhere").iterdir()] == ["neighbour.py"]

    os.chdir(project)
    longer = "astuner.trainer_common.total_training_steps=3"
    assert main(["--conf", "adder.yaml", "--resume", *changes, longer]) == 0
    assert f"resuming from {result.checkpoint}" in capsys.readouterr().err.replace("\n", "")
    steps = [line["step"] for line in read_json_lines(result.run_dir / "metrics.jsonl")]
    assert steps == [0, 1, 2, 3]


def test_a_workflow_that_changes_the_folder_leaves_a_debug_run_where_it_began(
    project: Path,
) -> None:
    result = launch(load_config(Path("job.yaml")))
    assert result.metrics["reward/mean"] == 1.0  # by the neighbour beside it, not by the other one
    assert result.run_dir.parent == project / "launcher_record" / "job"
    assert (result.run_dir / "episodes" / "step_000001.jsonl").is_file()
    assert [path.name for path in (project / "elsewhere").iterdir()] == ["neighbour.py"]


def test_a_module_that_changes_the_folder_while_it_is_imported_moves_nothing(
    project: Path,
) -> None:
    (file,) = project.glob("flows_*.py")
    file.write_text(
        f"import os\nos.chdir('elsewhere')\n{WORKFLOWS}".replace("HOME /", "HOME / '..' /")
    )
    result = launch(load_config(Path("job.yaml")))
    assert result.run_dir.parent == project / "launcher_record" / "job"


def test_paths_of_a_clustered_run_do_not_follow_the_current_directory(project: Path) -> None:
    loaded = load_config(Path("job.yaml"), ["astuner.llm.cache_dir=answers"])
    run = make_run(loaded, RunDir.create(loaded.experiment_dir, loaded.experiment_name))
    os.chdir("elsewhere")
    assert engine_state_dir(run).is_relative_to(project / "saved_checkpoints" / "job")
    assert WorkerRun.of(run).home == project
    assert WorkerRun.of(run).run_dir.parent == project / "launcher_record" / "job"
    assert loaded.settings.llm.cache_dir == str(project / "answers")
    assert all(folder.is_absolute() for folder in run.search_dirs)


def test_the_name_of_a_model_on_a_server_is_no_folder(project: Path) -> None:
    Path("small").mkdir()
    override = ["astuner.model.path=small"]
    assert load_config(Path("job.yaml"), override).settings.model.path == "small"
    tuned = load_config(Path("job.yaml"), override, backbone="local")
    assert tuned.settings.model.path == str(project / "small")
    hub = load_config(Path("job.yaml"), ["astuner.model.path=small/no"], backbone="local")
    assert hub.settings.model.path == "small/no"


def test_the_current_folder_on_the_search_path_is_the_one_of_the_start(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", ["", "elsewhere", "/no/such.zip", "__editable__.x.hook"])
    fix_sys_path()
    assert sys.path == [
        str(project),
        str(project / "elsewhere"),
        "/no/such.zip",
        "__editable__.x.hook",
    ]


@pytest.mark.parametrize(("workflow", "left"), [("Deleting", []), ("Moving", ["moved"])])
def test_a_run_directory_that_goes_away_ends_the_run_by_a_plain_error(
    project: Path, workflow: str, left: list[str]
) -> None:
    with pytest.raises(BackboneError, match="is gone: it was deleted or moved"):
        launch(load_config(Path("job.yaml"), [with_workflow(project, workflow)]))
    assert not Path("launcher_record").exists()
    assert [path.name for path in Path().glob("moved")] == left


def test_a_local_run_whose_directory_goes_away_says_so(
    project: Path,
    taught_model: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_conf(project, taught_model)
    assert main(["--conf", "adder.yaml", with_workflow(project, "Moving")]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "BackboneError: the run directory" in said and "move it back" in said
    assert "Traceback" not in said and not Path("launcher_record").exists()
