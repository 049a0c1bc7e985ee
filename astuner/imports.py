"""From "pkg.mod->Name" or "folder/file.py->Name" to the object of that name.

User modules are looked for in the given folders before the installed packages. When one is found,
its folder, the folder that its dotted name counts from and the current directory are put at the
front of `sys.path`, once, and stay there: a workflow may import its neighbours at any later time.
"""

import difflib
import hashlib
import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from astuner.errors import ConfigError
from astuner.machine.bytecode import UncachedLoader

_pinned: dict[str, Path] = {}
"""Top-level name -> the folder that `_pin` loaded it from; changed by `_pin` only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _ModuleFile:
    """A module found as a file: `root` is the folder that its dotted name counts from."""

    root: Path
    file: Path


def module_folders(conf_file: Path) -> tuple[Path, ...]:
    """Where modules named in `conf_file` are looked for, in order.

    The current directory, the file's folder and the folder above it.
    """
    folder = Path(os.path.abspath(conf_file)).parent
    return tuple(dict.fromkeys((Path.cwd(), folder, folder.parent)))


def fix_sys_path() -> None:
    """Make the folders of `sys.path` absolute; "" is the current one, which user code may change.

    A tool's folder must not hide modules that are imported later, and those of today stay.
    """
    sys.path[:] = [
        os.path.abspath(entry) if os.path.isdir(entry or os.curdir) else entry for entry in sys.path
    ]


def load_object(path: str, *, search_dirs: Sequence[Path]) -> Any:
    """The object that `path` names.

    A path with ".py" counts from each of `search_dirs`; a dotted module may stand in any of them,
    also in folders without `__init__.py`, or be installed. Raises ConfigError when the path is
    malformed, the module is not there or raises while it is imported, or has no such name.
    """
    module, name = _load_module(path, search_dirs)
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, [*_classes(module), *_functions(module)], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{path!r}: there is no {name}; {describe_module(module)}{hint}")
    return getattr(module, name)


def load_class(path: str, *, base: type, search_dirs: Sequence[Path]) -> Any:
    """The subclass of `base` that `path` names; raises ConfigError also for anything else."""
    found = load_object(path, search_dirs=search_dirs)
    module, name = _load_module(path, search_dirs)
    if isinstance(found, type) and issubclass(found, base):
        if inspect.isabstract(found):
            lacking = ", ".join(sorted(found.__abstractmethods__))
            raise ConfigError(
                f"{path!r}: {name} lacks {lacking}; write it as {base.__module__}.{base.__name__} "
                f"has it; {describe_module(module)}"
            )
        return found
    what = "another class" if isinstance(found, type) else f"of type {type(found).__name__}"
    raise ConfigError(
        f"{path!r}: {name} is {what}, not a subclass of {base.__module__}.{base.__name__}; "
        f"{describe_module(module)}"
    )


def make_object(path: str, make: Callable[[], Any], *, search_dirs: Sequence[Path]) -> Any:
    """What `make` gives; whatever user code raises there becomes a ConfigError."""
    return _run(path, search_dirs, make, failed="cannot be made")


def describe_shadow() -> str:
    """A clause that names a file of the user's that was imported in place of an installed package.

    Empty where there is none.
    """
    places = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    for name in sorted(name for name in sys.modules if "." not in name):
        file = getattr(sys.modules[name], "__file__", None)
        if file is None or any(Path(file).is_relative_to(place) for place in places):
            continue
        if _is_installed(Path(file)):
            continue
        installed = PathFinder.find_spec(name, places)
        if installed is not None and installed.origin is not None:
            return f"; {file} is imported in place of {installed.origin}: give it another name"
    return ""


def _is_installed(file: Path) -> bool:
    """Whether it lies in a folder of packages, such as one that PYTHONPATH names on purpose."""
    folder = file.parent.parent if file.stem == "__init__" else file.parent
    return any(folder.glob("*.dist-info"))


def _load_module(path: str, search_dirs: Sequence[Path]) -> tuple[ModuleType, str]:
    """The module of `path`, imported on the first call, and the name behind the arrow."""
    target, name = _split(path)
    folders = [Path(os.path.abspath(folder)) for folder in search_dirs]
    importlib.invalidate_caches()
    load = _load_file if target.endswith(".py") else _load_dotted
    return load(target, folders, path), name


def describe_module(module: ModuleType) -> str:
    """One clause that names the module, its file, and the classes and functions it defines."""
    found = {"classes": _classes(module), "functions": _functions(module)}
    listed = [f"the {kind} {', '.join(names)}" for kind, names in found.items() if names]
    defines = " and ".join(listed) or "no class and no function"
    return f"module {module.__name__} ({getattr(module, '__file__', None)}) defines {defines}"


def _classes(module: ModuleType) -> list[str]:
    members = inspect.getmembers(module, inspect.isclass)
    return [name for name, member in members if member.__module__ == module.__name__]


def _functions(module: ModuleType) -> list[str]:
    """Those that others may name."""
    members = inspect.getmembers(module, inspect.isfunction)
    own = [name for name, member in members if member.__module__ == module.__name__]
    return [name for name in own if not name.startswith("_")]


def _split(path: str) -> tuple[str, str]:
    target, arrow, name = (part.strip() for part in path.partition("->"))
    is_dotted = all(part.isidentifier() for part in target.split("."))
    if arrow and name.isidentifier() and (is_dotted or target.endswith(".py")):
        return target, name
    raise ConfigError(
        f"{path!r} is not a path to a class; write the module, '->' and the name, for example "
        f"{_suggestion(path)} or my_agent/workflow.py->MyWorkflow"
    )


def _suggestion(path: str) -> str:
    module, separator, name = path.replace(":", ".").rpartition(".")
    is_plain = separator and path.replace(":", ".").replace(".", "").isidentifier()
    return f"{module}->{name}" if is_plain else "my_agent.workflow->MyWorkflow"


def _extend_sys_path(folders: Iterable[Path]) -> None:
    names = dict.fromkeys(map(str, folders))
    sys.path[:0] = [name for name in names if name not in sys.path]


def _load_file(target: str, folders: Sequence[Path], path: str) -> ModuleType:
    file_path = Path(target).expanduser()
    candidates = [folder / file_path for folder in folders or [Path.cwd()]]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        looked = ", ".join(dict.fromkeys(map(str, candidates)))
        raise ConfigError(f"{path!r}: there is no file {target}; looked for {looked}")
    file = file.resolve()
    _extend_sys_path([Path.cwd(), file.parent])
    # The name must be the same in every process, so that instances can be pickled.
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, file, loader=UncachedLoader(name, str(file)))
    assert spec is not None
    return _run(path, folders, lambda: _execute(spec))


def _load_dotted(target: str, folders: Sequence[Path], path: str) -> ModuleType:
    top = target.partition(".")[0]
    found = None if top == __package__ else _find(target, folders)
    if found is None:
        return _load_installed(target, folders, path)
    _extend_sys_path([Path.cwd(), found.root, found.file.parent])
    _run(path, folders, lambda: _pin(top, found.root))
    module = _run(path, folders, lambda: importlib.import_module(target))
    if not _is_of(module, found.file):
        raise ConfigError(
            f"{path!r}: {found.file} was found, but the name {target} is taken by "
            f"{module.__file__ or module}; rename the file or its folder"
        )
    return module


def _is_of(module: ModuleType, file: Path) -> bool:
    """Whether the module was loaded from this file. That of another one may be gone by now."""
    try:
        return module.__file__ is not None and file.samefile(module.__file__)
    except FileNotFoundError:
        return False


def _find(target: str, folders: Iterable[Path]) -> _ModuleFile | None:
    for root in folders:
        stem = root.joinpath(*target.split("."))
        for file in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")):
            if file.is_file():
                return _ModuleFile(root=root, file=file)
    return None


def _pin(top: str, root: Path) -> None:
    """Load the top-level package or module `top` from `root`, whatever else is on `sys.path`.

    Without this, `math_agent.math_agent` would not be found from inside `math_agent/`: there the
    plain module `math_agent.py` wins over the folder above it that has no `__init__.py`.
    """
    if _pinned.get(top, root) != root:
        for name in [n for n in sys.modules if n == top or n.startswith(f"{top}.")]:
            del sys.modules[name]
    if top not in sys.modules:
        spec = PathFinder.find_spec(top, [str(root)])
        assert spec is not None
        _pinned[top] = root
        _execute(spec)


def _execute(spec: ModuleSpec) -> ModuleType:
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        if spec.loader is not None:
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _load_installed(target: str, folders: Sequence[Path], path: str) -> ModuleType:
    try:
        return _run(path, folders, lambda: importlib.import_module(target))
    except ConfigError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and f"{target}.".startswith(f"{cause.name}."):
            raise ConfigError(_describe_missing(target, folders, path)) from cause
        raise


def _run(
    path: str,
    folders: Sequence[Path],
    load: Callable[[], Any],
    *,
    failed: str = "cannot be imported",
) -> Any:
    """Run user code; whatever it raises becomes a ConfigError with its file and line.

    One that is a ConfigError already is about a setting and says what to do: no line is at fault.
    """
    try:
        return load()
    except ConfigError as error:
        raise ConfigError(f"{path!r}: {error}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{path!r} {failed}: {_describe_error(error, folders)}; "
            f"mend that line, or install what it needs{describe_shadow()}"
        ) from error


def _describe_error(error: BaseException, folders: Sequence[Path]) -> str:
    said = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {said}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen ") and frame.filename != __file__
    ]
    own = [frame for frame in frames if _is_users(Path(frame.filename), folders)]
    last = (own or frames or [None])[-1]
    return f"{last.filename}:{last.lineno}: {said}" if last else said


def _is_users(file: Path, folders: Iterable[Path]) -> bool:
    return "site-packages" not in file.parts and any(map(file.is_relative_to, folders))


def _describe_missing(target: str, folders: Sequence[Path], path: str) -> str:
    looked = ", ".join(map(str, folders))
    as_file = f"{target.replace('.', '/')}.py"
    said = f"{path!r}: there is no module {target}; looked for {as_file} in {looked} and among the "
    return f"{said}installed packages{''.join(_neighbours(target, folders))}"


def _neighbours(target: str, folders: Sequence[Path]) -> Iterator[str]:
    """What stands in the folders where the module should have been."""
    *parents, name = target.split(".")
    package = sys.modules.get(".".join(parents))
    places = [folder.joinpath(*parents) for folder in folders]
    places += map(Path, getattr(package, "__path__", ()))
    for place in dict.fromkeys(places):
        names = sorted(file.stem for file in place.glob("*.py") if file.stem != "__init__")
        if near := difflib.get_close_matches(name, names, n=3) or names[:5]:
            yield f"; {place} holds {', '.join(f'{n}.py' for n in near)}"
