"""`astuner init`: what it makes runs at once, and nothing of what is there is touched."""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from astuner.cli import main
from astuner.new_project.kinds import KINDS
from astuner.new_project.make import HUB_MODEL
from astuner.run_dir import RunDir, read_json_lines
from tests.tiny_model import make_tiny_model

ONCE = ("astuner.debug.debug_first_n_tasks=1", "astuner.rollout.num_repeat=1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_tiny_model(folder)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def make(kind: str, *more: str) -> Path:
    assert main(["init", "my_agent", "--from", kind, *more]) == 0
    return Path("my_agent")


def settings(project: Path) -> dict:
    return yaml.safe_load((project / "my_agent.yaml").read_text())["astuner"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_project_rolls_out_at_once(
    kind: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing := [name for name in KINDS[kind].packages if find_spec(name) is None]:
        pytest.skip(f"{missing} are in the environment of the frameworks")
    project = make(kind, "--model", str(model))
    monkeypatch.chdir(project)
    loaded_before = set(sys.modules)
    assert main(["--conf", "my_agent.yaml", "--backbone=debug", *ONCE]) == 0
    for name in set(sys.modules) - loaded_before:  # every kind has an agent.py
        if name in {"agent", "judge", "world"}:
            del sys.modules[name]
    (run,) = RunDir.all(Path("launcher_record"), "my_agent")
    (episodes,) = run.step_files()
    (episode,) = read_json_lines(episodes)
    assert episode["failure"] is None
    assert episode["calls"]


@pytest.mark.parametrize("kind", KINDS)
def test_its_files_are_whole_and_their_tests_hold(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make(kind)
    json.loads((project / ".vscode" / "launch.json").read_text())
    texts = {file: file.read_text() for file in project.rglob("*") if file.is_file()}
    assert [str(file) for file, text in texts.items() if "$name" in text or "$model" in text] == []
    monkeypatch.syspath_prepend(project.absolute())
    (tests,) = (project / "tests").glob("test_*.py")
    found: dict = {}
    exec(compile(tests.read_text(), tests, "exec"), found)
    held = [check for name, check in found.items() if name.startswith("test_")]
    for check in held:
        check()
    for name in ("judge", "world"):
        sys.modules.pop(name, None)
    assert len(held) >= 3


def test_no_task_is_in_two_splits() -> None:
    lines = [
        line
        for split in ("train", "validation", "test")
        for line in (make_once() / "tasks" / f"{split}.jsonl").read_text().splitlines()
    ]
    assert len(lines) == len(set(lines)) == 100


def make_once() -> Path:
    project = Path("my_agent")
    return project if project.exists() else make("openai")


def test_a_model_folder_is_named_as_the_project_sees_it(model: Path) -> None:
    Path("models").mkdir()
    os.symlink(model, Path("models") / "small")
    assert settings(make("openai"))["model"]["path"] == "../models/small"


def test_without_a_model_at_hand_a_small_one_of_the_hub_is_named() -> None:
    assert settings(make("openai"))["model"]["path"] == HUB_MODEL


def test_a_name_of_the_hub_stays_as_it_is() -> None:
    assert settings(make("openai", "--model", "a/b"))["model"]["path"] == "a/b"


def test_what_is_there_is_not_touched(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my_agent").mkdir()
    Path("my_agent", "mine.txt").write_text("mine")
    assert main(["init", "my_agent"]) == 2
    assert "my_agent is there already" in capsys.readouterr().err
    assert [file.name for file in Path().rglob("*") if file.is_file()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["2fast", "a b", ".hidden", "a$b"])
def test_a_name_that_no_module_could_have_is_refused(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", name]) == 2
    assert "is no name for a project" in capsys.readouterr().err
    assert list(Path().iterdir()) == []
