"""Holds the order of the layers and keeps heavy packages out of light modules.

Reads the imports with `ast`, the ones inside functions included, so that a cycle cannot hide in a
lazy import.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "astuner"

LAYERS = (
    (
        "errors",
        "types",
        "machine",
        "imports",
        "clock",
        "log_json",
        "log",
        "pins",
        "bridge",
        "calling",
        "waking",
        "workers",
    ),
    ("serving", "config", "console", "run_dir"),
    ("llm", "trajectory", "sandbox"),
    ("env_service",),
    ("algorithm", "models"),
    ("engine",),
    ("inference",),
    ("training", "gateway"),
    ("tuner", "task_reader", "task_judge", "task_generation"),
    ("traces",),
    ("trace_tasks",),
    ("warm_start",),
    ("workflow",),
    ("function_workflow",),
    ("rollout",),
    ("evaluation",),
    ("logview",),
    ("backbone",),
    ("exporting", "model_server", "collecting"),
    ("launch", "generating", "evaluating", "job", "cleaning", "rejudging", "new_project"),
    ("examining",),
    ("astuner",),
    ("cli",),
    ("__main__",),
)
"""Modules and folders of the package, lowest first; each imports only what stands before it.

`astuner` is the package's own `__init__`, which stands high because it exports the job.
"""
ORDER = [unit for layer in LAYERS for unit in layer]

INSIDE = {
    "inference": (
        (
            "channels",
            "excerpt",
            "frozen_clock",
            "limits",
            "schema_fit",
            "template_kwargs",
            "token_bytes",
            "weight",
        ),
        ("json_schema", "encoding"),
        ("vocabulary",),
        ("answer_format", "aside", "tools", "turn_end"),
        ("channel_template", "roles"),
        ("messages", "template"),
        ("breaks", "joint", "watch"),
        ("placement", "request"),
        ("deltas", "repair", "sampled_tokens"),
        ("chat", "shapes"),
        ("recited",),
        ("probed_turns",),
    ),
    "backbone": (
        (
            "user_code",
            "earlier_run",
            "overlong",
            "prometheus",
            "grace",
            "run_events",
            "llm_metrics",
            "trained_record",
            "vocabulary_file",
            "curriculum_steps",
            "result_page",
            "task_signs",
        ),
        ("run", "judge_child", "judge_of_answers"),
        (
            *("interrupt", "loggers", "validation", "record_bound", "chats", "judge_process"),
            *("environments", "set_material"),
        ),
        (
            *(
                "episode_writer",
                "worker_run",
                "environments_beside",
                "until_ended",
                "models_closed",
                "drafted_rubrics",
            ),
            "duplicate_search",
        ),
        ("generation_parts",),
        ("assemble", "reporter", "first_look"),
        ("run_end", "contaminated"),
        ("local",),
        ("asked_model",),
        ("debug", "cluster", "measured_pass_rates", "evaluation_run"),
        ("generated_tasks",),
        ("traced_tasks",),
        ("verl", "trinity"),
    ),
}
"""What is inside of the largest rooms, lowest first; in a row, nobody imports another."""

HEAVY = {"ray", "vllm", "verl", "trinity", "agentscope", "datasets", "transformers"}
"""Imported at module level in HEAVY_PLACES only; elsewhere inside a function."""
TORCH_PLACES = ("algorithm", "models", "engine", "training", "backbone/local")
ENGINE_PLACES = ("backbone/verl", "backbone/trinity")
"""Their files are imported by the engine of that name, which has loaded torch and Ray by then."""
HEAVY_PLACES = ("models", "engine", "training", "backbone/local", *ENGINE_PLACES)
EMPTY_NAMES = {"utils", "helpers", "common", "manager"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One module that a file of the package imports."""

    file: Path
    """Relative to the package."""
    line: int
    module: str
    """In full; for `from a import b`, `a.b` where that is a module of ours, else `a`."""
    is_lazy: bool
    """Inside a function, or for the type checker only."""

    @property
    def importer(self) -> str:
        """The module or folder, directly under the package, that the file belongs to."""
        unit = self.file.parts[0].removesuffix(".py")
        return "astuner" if unit == "__init__" else unit

    def is_in(self, *places: str) -> bool:
        """Whether the file stands in one of these folders of the package."""
        return self.file.as_posix().startswith(tuple(f"{place}/" for place in places))

    @property
    def top(self) -> str:
        return self.module.split(".")[0]

    @property
    def imported(self) -> str:
        """Like `importer`, for a module of ours."""
        return [*self.module.split("."), "astuner"][1]

    def __str__(self) -> str:
        return f"astuner/{self.file}:{self.line} imports {self.module}"


def read_imports(package: Path) -> list[Import]:
    return [found for path in sorted(package.rglob("*.py")) for found in _imports_of(path, package)]


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports_of(path: Path, package: Path) -> Iterator[Import]:
    file = path.relative_to(package)
    for node, is_lazy in _import_nodes(_parsed(path), is_lazy=False):
        for name in _modules_of(node, package):
            yield Import(file=file, line=node.lineno, module=name, is_lazy=is_lazy)


def _import_nodes(
    node: ast.AST, *, is_lazy: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            continue  # holds no statement
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, is_lazy
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        test = ast.unparse(child.test) if isinstance(child, ast.If) else ""
        is_for_types = test.endswith("TYPE_CHECKING")
        yield from _import_nodes(child, is_lazy=is_lazy or is_function or is_for_types)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield child
            yield from _statements(child)


def _modules_of(node: ast.Import | ast.ImportFrom, package: Path) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0 and node.module, f"line {node.lineno}: a relative import"
    inside = package.joinpath(*node.module.split(".")[1:])
    return [
        f"{node.module}.{alias.name}"
        if node.module.startswith("astuner") and _is_module(inside / alias.name)
        else node.module
        for alias in node.names
    ]


@cache
def _is_module(path: Path) -> bool:
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


IMPORTS = read_imports(PACKAGE)
IMPORTS_OF_FOLDERS: dict[Path, list[Import]] = {}
for _found in IMPORTS:
    IMPORTS_OF_FOLDERS.setdefault(_found.file.parent, []).append(_found)


def test_every_part_of_the_package_has_a_layer() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert sorted((folders | modules) - set(ORDER)) == []


def test_imports_point_down_the_layers_only() -> None:
    upward = [
        str(found)
        for found in IMPORTS
        if found.top == "astuner"
        and found.imported != found.importer
        and ORDER.index(found.imported) > ORDER.index(found.importer)
    ]
    assert upward == []


@pytest.mark.parametrize("room", INSIDE)
def test_every_part_of_a_large_room_has_a_place(room: str) -> None:
    folder = PACKAGE / room
    folders = {path.parent.name for path in folder.glob("*/__init__.py")}
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert folders | modules == {part for row in INSIDE[room] for part in row}


@pytest.mark.parametrize("room", INSIDE)
def test_imports_point_down_inside_of_a_large_room_too(room: str) -> None:
    rank = {part: index for index, row in enumerate(INSIDE[room]) for part in row}
    upward = [
        str(found)
        for found in IMPORTS
        if found.is_in(room)
        and found.module.startswith(f"astuner.{room}.")
        and (importer := found.file.parts[1].removesuffix(".py")) in rank
        and (imported := found.module.split(".")[2]) != importer
        and rank[imported] >= rank[importer]
    ]
    assert upward == []


@pytest.mark.parametrize("folder", sorted({path.parent for path in PACKAGE.rglob("*.py")}))
def test_the_files_of_a_folder_import_each_other_in_one_direction(folder: Path) -> None:
    """Whatever remains after taking away, again and again, those that import none of the rest."""
    prefix = ".".join(("astuner", *folder.relative_to(PACKAGE).parts, ""))
    needs: dict[str, set[str]] = {path.stem: set() for path in folder.glob("*.py")}
    for found in IMPORTS_OF_FOLDERS.get(folder.relative_to(PACKAGE), []):
        if found.module.startswith(prefix):
            needed = found.module.removeprefix(prefix).partition(".")[0]
            needs[found.file.stem] |= {needed} & needs.keys() - {found.file.stem}
    left = needs.keys() - {"__init__"}
    while free := {name for name in left if not needs[name] & left}:
        left -= free
    assert left == set()


def test_torch_is_imported_with_the_arithmetic_and_where_it_runs_only() -> None:
    early = [
        str(found)
        for found in IMPORTS
        if found.top == "torch"
        and not found.is_lazy
        and not found.is_in(*TORCH_PLACES, *ENGINE_PLACES)
    ]
    assert early == []


@pytest.mark.parametrize(
    "unit",
    [
        *("trajectory", "inference", "gateway", "serving", "llm", "tuner", "workflow", "rollout"),
        *("env_service", "sandbox"),
    ],
)
def test_the_rollout_path_never_touches_torch(unit: str) -> None:
    assert [str(i) for i in IMPORTS if i.importer == unit and i.top == "torch"] == []


def test_the_seam_to_a_backbone_is_free_of_torch() -> None:
    """The rollout imports this one file of the engine's room."""
    seam = Path("engine/protocol.py")
    assert [str(i) for i in IMPORTS if i.file == seam and i.top in {"torch", *HEAVY}] == []
    outside = {"inference", "gateway", "tuner", "workflow", "rollout"}
    used = {i.module for i in IMPORTS if i.importer in outside and i.imported == "engine"}
    assert used == {"astuner.engine.protocol"}


def test_heavy_packages_are_imported_when_used() -> None:
    early = [
        str(found)
        for found in IMPORTS
        if found.top in HEAVY and not found.is_lazy and not found.is_in(*HEAVY_PLACES)
    ]
    assert early == []


def test_neither_engines_nor_models_know_the_training() -> None:
    known = [i for i in IMPORTS if i.is_in("engine", "models") and i.imported == "training"]
    assert [str(found) for found in known] == []


def test_a_class_name_stands_once_in_the_package() -> None:
    """A reader who looks for it finds one; an underscore makes no other name."""
    homes: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in _statements(_parsed(path)):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name.lstrip("_"), []).append(str(path.relative_to(PACKAGE)))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_math_verify_stays_in_its_worker_process() -> None:
    users = {str(found.file) for found in IMPORTS if found.top == "math_verify"}
    assert users <= {"task_judge/math/worker.py"}


def test_the_package_does_not_know_what_is_built_on_it() -> None:
    outer = {"tutorial", "tests", "benchmarks", "scripts", "launcher"}
    assert [str(found) for found in IMPORTS if found.top in outer] == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = {path: {path.stem, *path.relative_to(PACKAGE).parts} for path in PACKAGE.rglob("*.py")}
    assert [str(path) for path, parts in names.items() if parts & EMPTY_NAMES] == []


def test_imports_are_found_wherever_they_hide(tmp_path: Path) -> None:
    (tmp_path / "log.py").touch()
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "a.py").write_text(
        "import torch.nn\n"
        "from astuner import log, __version__\n"
        "if TYPE_CHECKING:\n    import ray\n"
        "class C:\n    async def f(self):\n        with x:\n            from verl.a import b\n"
    )
    found = [(i.importer, i.module, i.is_lazy) for i in read_imports(tmp_path)]
    assert found == [
        ("backbone", "torch.nn", False),
        ("backbone", "astuner.log", False),
        ("backbone", "astuner", False),
        ("backbone", "ray", True),
        ("backbone", "verl.a", True),
    ]
