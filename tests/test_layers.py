"""Holds the order of the layers and keeps heavy packages out of light modules.

Reads the imports with `ast`, the ones inside functions included, so that a cycle cannot hide in a
lazy import.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "astuner"

LAYERS = (
    ("errors", "types", "imports", "log", "pins"),
    ("config", "console", "run_dir"),
    ("llm", "trajectory"),
    ("algorithm", "models"),
    ("engine",),
    ("inference",),
    ("training", "gateway"),
    ("tuner", "task_reader", "task_judge"),
    ("workflow",),
    ("function_workflow",),
    ("rollout",),
    ("backbone",),
    ("launch", "job"),
    ("astuner",),
    ("cli",),
    ("__main__",),
)
"""Modules and folders of the package, lowest first; each imports only what stands before it.

`astuner` is the package's own `__init__`, which stands high because it exports the job.
"""
ORDER = [unit for layer in LAYERS for unit in layer]

HEAVY = {"ray", "vllm", "verl", "trinity", "agentscope", "datasets", "transformers"}
"""Imported at module level under backbone/ only; elsewhere inside a function."""
TORCH_UNITS = {"algorithm", "models", "engine", "training", "backbone"}
HEAVY_UNITS = {"models", "engine", "training", "backbone"}
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
    found = []
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node, is_lazy in _import_nodes(tree, is_lazy=False):
            found += [
                Import(
                    file=path.relative_to(package), line=node.lineno, module=name, is_lazy=is_lazy
                )
                for name in _modules_of(node, package)
            ]
    return found


def _import_nodes(
    node: ast.AST, *, is_lazy: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, is_lazy
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        test = ast.unparse(child.test) if isinstance(child, ast.If) else ""
        is_for_types = test.endswith("TYPE_CHECKING")
        yield from _import_nodes(child, is_lazy=is_lazy or is_function or is_for_types)


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


def _is_module(path: Path) -> bool:
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


IMPORTS = read_imports(PACKAGE)


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


def test_torch_is_imported_with_the_arithmetic_and_the_backbones_only() -> None:
    early = [
        str(found)
        for found in IMPORTS
        if found.top == "torch" and not found.is_lazy and found.importer not in TORCH_UNITS
    ]
    assert early == []


@pytest.mark.parametrize("unit", ["trajectory", "inference", "tuner", "workflow", "rollout"])
def test_the_rollout_path_never_touches_torch(unit: str) -> None:
    assert [str(i) for i in IMPORTS if i.importer == unit and i.top == "torch"] == []


def test_heavy_packages_are_imported_when_used() -> None:
    early = [
        str(found)
        for found in IMPORTS
        if found.top in HEAVY and not found.is_lazy and found.importer not in HEAVY_UNITS
    ]
    assert early == []


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
