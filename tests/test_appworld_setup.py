"""The environment of AppWorld, as far as it needs no AppWorld."""

import sys
from pathlib import Path

import pytest

from astuner.cli import main
from astuner.env_service.server.world import World
from astuner.errors import ConfigError
from astuner.pins.appworld import find_python


def test_the_interpreter_that_is_given_counts_before_the_named_one(tmp_path):
    named = {"APPWORLD_PYTHON": str(tmp_path / "none")}
    assert find_python(Path(sys.executable), environ=named) == Path(sys.executable)


def test_the_interpreter_that_is_named_counts_before_the_one_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = tmp_path / ".venv-appworld" / "bin" / "python"
    here.parent.mkdir(parents=True)
    here.symlink_to(sys.executable)
    assert find_python(None, environ={}) == here
    assert find_python(None, environ={"APPWORLD_PYTHON": sys.executable}) == Path(sys.executable)


@pytest.mark.parametrize("what", ["nothing", "a folder", "a file that cannot be run"])
def test_what_is_no_interpreter_is_told_how_to_make_one(tmp_path, what):
    path = tmp_path / "python"
    if what == "a folder":
        path.mkdir()
    if what == "a file that cannot be run":
        path.write_text("")
    with pytest.raises(ConfigError, match=r"astuner setup appworld.*APPWORLD_PYTHON") as found:
        find_python(path, environ={})
    assert str(path) in str(found.value)


def test_a_server_of_appworld_without_its_interpreter_does_not_start(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("APPWORLD_PYTHON", raising=False)
    assert main(["env", "serve", "appworld", "--port", "0"]) == 2
    assert "astuner setup appworld" in capsys.readouterr().err


def test_an_environment_of_appworld_has_no_cuda_to_leave_out(tmp_path, capsys):
    assert main(["setup", "appworld", "--cpu", "--path", str(tmp_path)]) == 2
    assert "omit --cpu" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").write_text("")
    assert main(["setup", "appworld", "--path", str(tmp_path)]) == 2
    assert "is no virtual environment" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_no_module_of_the_user_stands_before_those_of_appworld(tmp_path, monkeypatch):
    """The tutorial's own is called appworld, too."""
    monkeypatch.setenv("APPWORLD_PYTHON", sys.executable)
    world = World(name="appworld", target="appworld", search_dirs=(tmp_path,))
    assert world.interpreter() == sys.executable
    assert str(tmp_path) not in world.described()["folders"]
