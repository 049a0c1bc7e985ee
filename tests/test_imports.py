"""From "module->Name" to the object, and what a user reads when it does not work."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from astuner import imports
from astuner.errors import ConfigError
from astuner.imports import load_object, module_folders

WORKFLOW = "class MathAgentWorkflow:\n    where = __file__\n"


@pytest.fixture(autouse=True)
def _interpreter_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test starts from the same `sys.path` and `sys.modules`, and leaves no trace."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(imports, "_pinned", dict(imports._pinned))
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """math_agent/ with math_agent.py and math_agent.yaml in it and no __init__.py."""
    folder = tmp_path / "math_agent"
    folder.mkdir()
    (folder / "math_agent.py").write_text(WORKFLOW)
    (folder / "math_agent.yaml").write_text("astuner: {}\n")
    return folder


def _fails(path: str, folders: list[Path]) -> str:
    with pytest.raises(ConfigError) as caught:
        load_object(path, search_dirs=folders)
    return str(caught.value)


@pytest.mark.parametrize("cwd", ["..", ".", "/"])
def test_the_quick_start_workflow_is_found_from_any_directory(
    project: Path, monkeypatch: pytest.MonkeyPatch, cwd: str
) -> None:
    monkeypatch.chdir(project / cwd)
    conf_file = Path(os.path.relpath(project / "math_agent.yaml"))
    workflow = load_object(
        "math_agent.math_agent->MathAgentWorkflow", search_dirs=module_folders(conf_file)
    )
    assert Path(workflow.where) == project / "math_agent.py"
    assert workflow.__module__ == "math_agent.math_agent"


def test_it_is_found_inside_its_folder_in_a_fresh_interpreter(project: Path) -> None:
    code = (
        "from pathlib import Path; from astuner.imports import load_object, module_folders; "
        "folders = module_folders(Path('math_agent.yaml')); "
        "print(load_object('math_agent.math_agent->MathAgentWorkflow', search_dirs=folders).where)"
    )
    root = Path(imports.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == str(project / "math_agent.py"), done.stderr


def test_a_module_beside_the_yaml_is_found_by_its_name_alone(project: Path) -> None:
    (project / "flow.py").write_text("import neighbour\nclass Flow(neighbour.Base): ...\n")
    (project / "neighbour.py").write_text("class Base: ...\n")
    assert load_object("flow->Flow", search_dirs=[project]).__name__ == "Flow"


@pytest.mark.parametrize("taken", ["tabnanny.py", "tabnanny/__init__.py"])
def test_a_file_that_hides_an_installed_module_is_named_as_the_cause(
    project: Path, taken: str
) -> None:
    (project / taken).parent.mkdir(exist_ok=True)
    (project / taken).write_text("ours = 1\n")
    (project / "flow.py").write_text("import tabnanny\nfound = tabnanny.check('a')\n")
    message = _fails("flow->Flow", [project])
    assert f"{project / taken} is imported in place of" in message
    assert "give it another name" in message


def test_a_folder_of_packages_may_hide_the_installed_ones(project: Path) -> None:
    (project / "tabnanny-1.0.dist-info").mkdir()
    (project / "tabnanny.py").write_text("ours = 1\n")
    (project / "flow.py").write_text("import tabnanny\nfound = tabnanny.check('a')\n")
    assert "in place of" not in _fails("flow->Flow", [project])


def test_a_module_of_the_user_is_no_cause_where_it_hides_nothing(project: Path) -> None:
    (project / "my_colors.py").write_text("ours = 1\n")
    (project / "flow.py").write_text("import my_colors\nred = my_colors.red\n")
    assert "in place of" not in _fails("flow->Flow", [project])


def test_a_package_with_init_files_is_found(project: Path) -> None:
    (project / "__init__.py").write_text("SIZE = 4\n")
    (project / "flow.py").write_text("from math_agent import SIZE\nfrom .math_agent import *\n")
    workflow = load_object("math_agent.flow->MathAgentWorkflow", search_dirs=[project.parent])
    assert workflow.__module__ == "math_agent.math_agent"


def test_a_file_path_counts_from_each_folder_and_can_be_pickled(project: Path) -> None:
    workflow = load_object(
        "math_agent/math_agent.py->MathAgentWorkflow", search_dirs=[project, project.parent]
    )
    assert pickle.loads(pickle.dumps(workflow)) is workflow
    again = load_object(f"{project}/math_agent.py->MathAgentWorkflow", search_dirs=[])
    assert again is workflow


def test_an_installed_module_is_found() -> None:
    assert load_object("json.decoder->JSONDecoder", search_dirs=[]).__name__ == "JSONDecoder"


def test_our_own_modules_are_not_looked_for_in_the_users_folders(tmp_path: Path) -> None:
    (tmp_path / "astuner").mkdir()
    (tmp_path / "astuner" / "errors.py").write_text("class ConfigError: ...\n")
    assert load_object("astuner.errors->ConfigError", search_dirs=[tmp_path]) is ConfigError


def test_another_project_with_the_same_names_gets_its_own_module(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flow.py").write_text(f"class Flow:\n    name = {name!r}\n")
    for name in ("a", "b", "a"):
        assert load_object("flow->Flow", search_dirs=[tmp_path / name]).name == name


def test_a_name_that_another_module_holds_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "decoder.py").write_text("class JSONDecoder: ...\n")
    message = _fails("json.decoder->JSONDecoder", [tmp_path])
    assert "is taken by" in message and "rename the file or its folder" in message


def test_a_name_that_a_module_of_a_deleted_file_holds_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = ModuleType("flow")
    held.__file__ = str(tmp_path / "deleted" / "flow.py")
    monkeypatch.setitem(sys.modules, "flow", held)
    (tmp_path / "flow.py").write_text("class Flow: ...\n")
    assert "is taken by" in _fails("flow->Flow", [tmp_path])


def test_only_the_folders_in_use_are_put_on_the_path_and_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "other").mkdir()
    monkeypatch.chdir(project / "other")
    before = list(sys.path)
    load_object("json.decoder->JSONDecoder", search_dirs=[project.parent])
    assert sys.path == before
    for _ in range(2):
        load_object(
            "math_agent.math_agent->MathAgentWorkflow", search_dirs=["/no/such", project.parent]
        )
    assert sys.path == [str(project / "other"), str(project.parent), str(project), *before]


def test_a_workflow_imports_its_neighbours_by_either_name(project: Path) -> None:
    (project / "prompts.py").write_text("TEXT = 'x'\n")
    (project / "math_agent.py").write_text(
        "import prompts\nfrom math_agent.prompts import TEXT\n" + WORKFLOW
    )
    load_object("math_agent.math_agent->MathAgentWorkflow", search_dirs=[project.parent])


def test_a_missing_module_names_the_places_and_what_is_there(project: Path) -> None:
    (project / "workflow.py").write_text(WORKFLOW)
    message = _fails("math_agent.workflows->MathAgentWorkflow", [project, project.parent])
    assert "there is no module math_agent.workflows" in message
    assert "looked for math_agent/workflows.py in" in message
    assert f"{project} holds workflow.py" in message


def test_a_missing_module_of_ours_names_near_ones() -> None:
    message = _fails("astuner.eror->ConfigError", [])
    assert "there is no module astuner.eror" in message and "errors.py" in message


def test_a_missing_file_names_the_places(project: Path) -> None:
    message = _fails("flow.py->Flow", [project])
    assert message == f"'flow.py->Flow': there is no file flow.py; looked for {project}/flow.py"


def test_a_missing_name_lists_the_classes(project: Path) -> None:
    message = _fails("math_agent.math_agent->MathAgentWorkflo", [project.parent])
    assert "there is no MathAgentWorkflo" in message
    assert "defines the classes MathAgentWorkflow" in message
    assert "did you mean MathAgentWorkflow?" in message


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("async def judge(): ...\n", "defines the functions judge; did you mean judge?"),
        (
            "class Kind: ...\ndef judge(): ...\n",
            "the classes Kind and the functions judge; did you mean judge?",
        ),
        ("def _judge(): ...\nx = 1\n", "defines no class and no function"),
        ("from shutil import move as juge_\n", "defines no class and no function"),
    ],
)
def test_a_missing_name_lists_the_functions_too(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "mine.py").write_text(source)
    message = _fails("mine.py->juge", [tmp_path])
    assert "there is no juge" in message and said in message
    assert "did you mean" in said or message.endswith(said)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\nclass A(:\n", ":2: SyntaxError: "),
        ("import json\nimport no_such_package\n", ":2: ModuleNotFoundError: No module named"),
        ("from json import no_such_name\n", ":1: ImportError: cannot import name"),
        ("import math_agent.no_such\n", ":1: ModuleNotFoundError: No module named"),
        ("import json\n\njson.loads('')\n", ":3: JSONDecodeError: "),
        ("def f():\n    raise SystemExit(2)\nf()\n", ":2: SystemExit: 2"),
    ],
)
def test_an_error_inside_the_module_is_shown_with_its_own_line(
    project: Path, source: str, said: str
) -> None:
    (project / "math_agent.py").write_text(source)
    for path in ("math_agent.math_agent->A", "math_agent/math_agent.py->A"):
        message = _fails(path, [project.parent])
        assert f"cannot be imported: {project / 'math_agent.py'}{said}" in message
        assert "there is no module" not in message


def test_a_module_that_failed_can_be_mended_and_loaded(project: Path) -> None:
    (project / "math_agent.py").write_text("import no_such_package\n")
    _fails("math_agent.math_agent->MathAgentWorkflow", [project.parent])
    (project / "math_agent.py").write_text(WORKFLOW)
    load_object("math_agent.math_agent->MathAgentWorkflow", search_dirs=[project.parent])


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("pkg.mod.Name", "pkg.mod->Name"),
        ("pkg.mod:Name", "pkg.mod->Name"),
        ("Name", "my_agent.workflow->MyWorkflow"),
        ("pkg.mod->", "my_agent.workflow->MyWorkflow"),
        ("folder/file->Name", "my_agent/workflow.py->MyWorkflow"),
        ("", "my_agent.workflow->MyWorkflow"),
    ],
)
def test_a_malformed_path_is_explained(path: str, suggestion: str) -> None:
    message = _fails(path, [])
    assert "is not a path to a class" in message and suggestion in message
