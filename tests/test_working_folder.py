"""What a run leaves in the folder in which it was started, and with which rights it writes."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

pytest.importorskip("agentscope")
pytest.importorskip("torch")

from astuner.backbone.cluster.engine_run import engine_state_dir
from astuner.cli import main
from astuner.config.load import load_config
from astuner.machine.bytecode import leave_no_bytecode
from astuner.machine.caches import use_writable_caches
from astuner.run_dir import RunDir
from tests.runs import make_run
from tests.test_local_run import AGENTS, taught_model, write_conf  # noqa: F401

NOWHERE = "/dev/null/home"
"""A folder that nobody can make, not even root."""
CACHE_VARIABLES = (
    *("XDG_CACHE_HOME", "HF_HOME", "HF_DATASETS_CACHE", "HF_MODULES_CACHE"),
    *("TRITON_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TMPDIR", "TEMP", "TMP"),
)
WORKFLOW = """
from astuner import Workflow, WorkflowOutput

class Late(Workflow):
    async def execute(self, workflow_task, model_tuner):
        import beside_the_flow, package.inner
        return WorkflowOutput(reward=float(beside_the_flow.VALUE + package.inner.VALUE))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A workflow that imports its neighbours late and asks no model, in the current folder."""
    folder = tmp_path / "project"
    (folder / "package").mkdir(parents=True)
    monkeypatch.chdir(folder)
    Path("late.py").write_text(WORKFLOW)
    Path("beside_the_flow.py").write_text("VALUE = 1\n")
    Path("package/__init__.py").touch()
    Path("package/inner.py").write_text("VALUE = 2\n")
    settings = {
        "backbone": "debug",
        "task_reader": {"type": "random_dummy"},
        "rollout": {"agentscope_workflow": "late->Late", "num_repeat": 2},
        "debug": {"openai_base_url": "http://127.0.0.1:9/v1", "openai_model": "none"},
    }
    Path("job.yaml").write_text(yaml.safe_dump({"astuner": settings}))
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("workflow", ["late->Late", "late.py->Late"])
def test_a_debug_run_leaves_nothing_in_the_working_folder(project, tmp_path, workflow):
    before = listing(project)
    command = [sys.executable, "-m", "astuner", "--conf", "job.yaml", "--exp-dir"]
    command += [str(tmp_path / "runs"), f"astuner.rollout.agentscope_workflow={workflow}"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "reward mean 3.000" in done.stderr
    assert listing(project) == before


def test_a_local_run_leaves_nothing_in_the_working_folder(
    taught_model,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    write_conf(folder, taught_model)
    shutil.copy(AGENTS / "adder.py", folder / "own_adder.py")
    before = listing(folder)
    overrides = ["rollout.agentscope_workflow=own_adder->AdderWorkflow"]
    overrides += ["trainer_common.total_training_steps=1", "trainer_common.logger=tensorboard"]
    given = [f"astuner.{override}" for override in overrides]
    assert main(["--conf", "adder.yaml", "--exp-dir", str(tmp_path / "runs"), *given]) == 0
    assert listing(folder) == before
    assert (tmp_path / "runs/adder/latest/checkpoints/step_1").is_dir()


def test_bytecode_that_is_there_is_used_and_that_of_installed_packages_is_written(tmp_path):
    installed = tmp_path / "own" / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "cached_package.py").touch()
    (tmp_path / "own" / "uncached_module.py").touch()
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from astuner.machine.bytecode import leave_no_bytecode\n"
        f"sys.path[:0] = [{str(tmp_path / 'own')!r}, {str(installed)!r}]\n"
        f"leave_no_bytecode([Path({str(tmp_path / 'own')!r})])\n"
        "import cached_package, uncached_module\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert [path.parent.parent.name for path in tmp_path.rglob("*.pyc")] == ["site-packages"]


def test_the_package_keeps_its_bytecode_where_its_checkout_is_the_working_folder(tmp_path):
    checkout = Path(__file__).parents[1]
    code = (
        "from pathlib import Path\n"
        "from astuner.machine.bytecode import leave_no_bytecode\n"
        f"leave_no_bytecode([Path({str(checkout)!r})])\n"
        "import astuner.calling\n"
        "from importlib.machinery import SourceFileLoader\n"
        "assert type(astuner.calling.__loader__) is SourceFileLoader\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PYTHONPATH"] = str(checkout)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=checkout)


def test_keeping_a_folder_clean_twice_adds_one_hook(tmp_path):
    leave_no_bytecode([tmp_path])
    before = list(sys.path_hooks)
    leave_no_bytecode([tmp_path])
    leave_no_bytecode([tmp_path / "other"])
    assert sys.path_hooks == before


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No variable says where anything goes, and the home can be written."""
    for name in CACHE_VARIABLES:
        monkeypatch.setenv(name, "")  # so that what is set later is undone
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def cache_variables() -> dict[str, str]:
    return {name: os.environ[name] for name in CACHE_VARIABLES if name in os.environ}


def test_a_home_that_can_be_written_is_used_as_ever(bare, tmp_path):
    use_writable_caches(tmp_path / "runs")
    assert cache_variables() == {}


def test_caches_go_to_the_folder_for_temporary_files_where_there_is_no_home(bare, tmp_path):
    bare.setenv("TMPDIR", str(tmp_path))
    bare.setenv("HOME", NOWHERE)
    use_writable_caches(tmp_path / "runs")
    place = tmp_path / f"astuner_{os.getuid()}"
    found = cache_variables()
    assert found["XDG_CACHE_HOME"] == str(place)
    assert found["TRITON_CACHE_DIR"] == str(place / "triton")
    assert "HF_HOME" not in found
    assert place.stat().st_mode & 0o777 == 0o700


def test_models_in_a_cache_that_is_only_read_are_still_found(bare, tmp_path):
    bare.setenv("TMPDIR", str(tmp_path))
    caches = tmp_path / "cache"
    (caches / "huggingface").mkdir(parents=True)
    bare.setenv("XDG_CACHE_HOME", str(caches))
    bare.setattr(os, "access", lambda path, mode: Path(path) != caches)
    use_writable_caches(tmp_path / "runs")
    found = cache_variables()
    assert found["HF_HOME"] == str(caches / "huggingface")
    assert found["HF_DATASETS_CACHE"].startswith(str(tmp_path / "astuner_"))


def test_what_the_user_set_stays(bare, tmp_path):
    bare.setenv("TMPDIR", str(tmp_path))
    bare.setenv("HOME", NOWHERE)
    bare.setenv("TRITON_CACHE_DIR", "/my/kernels")
    use_writable_caches(tmp_path / "runs")
    assert os.environ["TRITON_CACHE_DIR"] == "/my/kernels"


def test_kernels_are_not_taken_from_a_folder_that_somebody_else_could_have_made(bare, tmp_path):
    bare.setenv("TMPDIR", str(tmp_path))
    bare.setenv("HOME", NOWHERE)
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"astuner_{os.getuid()}").symlink_to(tmp_path / "theirs")
    use_writable_caches(tmp_path / "runs")
    assert not os.environ["TRITON_CACHE_DIR"].startswith(str(tmp_path / f"astuner_{os.getuid()}"))


def test_temporary_files_go_to_the_runs_rather_than_to_the_working_folder(bare, tmp_path):
    bare.chdir(tmp_path)
    bare.setattr(tempfile, "tempdir", str(tmp_path))  # as Python finds it where /tmp is read-only
    use_writable_caches(tmp_path / "runs")
    assert tempfile.gettempdir() == str(tmp_path / "runs" / ".tmp")


def test_the_folder_for_temporary_files_may_be_the_current_one(bare, tmp_path):
    bare.chdir("/tmp")
    use_writable_caches(tmp_path / "runs")
    assert cache_variables() == {} and not (tmp_path / "runs").exists()


def test_without_any_place_for_temporary_files_the_variable_is_named(project, bare, capsys):
    bare.setattr(tempfile, "tempdir", NOWHERE)
    assert main(["--conf", str(project / "job.yaml")]) == 2
    shown = capsys.readouterr().err
    assert "there is no folder for temporary files" in shown and "TMPDIR" in shown


def test_the_state_of_an_engine_lies_beside_the_runs_where_their_folder_was_named(project):
    def place(*overrides: str) -> Path:
        loaded = load_config(Path("job.yaml"), [f"astuner.{text}" for text in overrides])
        return engine_state_dir(make_run(loaded, RunDir(root=loaded.experiment_dir / "job/first")))

    own = Path("saved_checkpoints/job/first")
    assert place() == project / own
    assert place("experiment_dir=/data/runs") == Path("/data/runs") / own
    named = place("experiment_dir=/data/runs", "trainer_common.checkpoint_base_dir=./mine")
    assert named == project / "mine/job/first"
    (project / own).mkdir(parents=True)  # where a run of an earlier release has it
    assert place("experiment_dir=/data/runs") == project / own


@pytest.fixture(params=[0o022, 0o002, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def assert_follows_umask(folder: Path, umask: int) -> None:
    paths = [path for path in folder.rglob("*") if not path.is_symlink()]
    wrong = {
        path.relative_to(folder).as_posix(): oct(path.stat().st_mode & 0o777)
        for path in paths
        if path.stat().st_mode & 0o777 != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert wrong == {} and len(paths) > 5


def test_every_file_of_a_debug_run_follows_the_umask(project, tmp_path, umask):
    assert main(["--conf", "job.yaml", "--exp-dir", str(tmp_path / "runs")]) == 0
    assert_follows_umask(tmp_path / "runs", umask)


# One that opens more than the files' usual modes do, and one that closes more.
@pytest.mark.parametrize("umask", [0o002, 0o077], indirect=True, ids=oct)
def test_every_file_of_a_local_run_follows_the_umask(
    taught_model,  # noqa: F811
    tmp_path,
    monkeypatch,
    umask,
):
    monkeypatch.chdir(tmp_path)
    write_conf(tmp_path, taught_model)
    start = [
        "--conf",
        "adder.yaml",
        "--exp-dir",
        "runs",
        "astuner.trainer_common.logger=tensorboard",
    ]
    start += ["astuner.trainer_common.save_optimizer=latest"]
    steps = "astuner.trainer_common.total_training_steps="
    assert main([*start, f"{steps}2"]) == 0
    (run,) = (path for path in Path("runs/adder").iterdir() if not path.is_symlink())
    (run / "checkpoints/step_2/config.json").unlink()  # it is put aside
    assert main([*start, f"{steps}2", "--resume"]) == 0
    assert {"config_2.yaml", "set_aside", "tensorboard"} <= {path.name for path in run.iterdir()}
    assert_follows_umask(Path("runs"), umask)
