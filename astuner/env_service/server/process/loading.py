"""From "module->Class" or "file.py->Class" to the class, made ready, under any interpreter."""

import importlib.util
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any


class Unloadable(Exception):
    """The class cannot be had."""


def load(described: dict[str, Any]) -> type:
    """Raises Unloadable with file and line of whatever the import, or `prepare`, raised."""
    sys.path[:0] = [folder for folder in described["folders"] if folder not in sys.path]
    sys.path += described["packages"]
    target, _, name = described["target"].partition("->")
    try:
        module = _of_file(target) if target.endswith(".py") else import_module(target)
    except BaseException as error:
        raise Unloadable(f"{_place(error)}{type(error).__name__}: {error}") from error
    made = getattr(module, name, None)
    if not isinstance(made, type):
        classes = sorted(n for n, value in vars(module).items() if isinstance(value, type))
        raise Unloadable(
            f"{module.__file__} has no class {name}; its classes are {', '.join(classes) or 'none'}"
        )
    missing = [method for method in ("reset", "step") if not callable(getattr(made, method, None))]
    if missing:
        raise Unloadable(f"{name} in {module.__file__} has no method {' and no '.join(missing)}")
    _prepare(made, described["options"])
    return made


def _prepare(made: Any, options: dict[str, Any]) -> None:
    prepare = getattr(made, "prepare", None)
    if prepare is None:
        return
    try:
        prepare(**options)
    except BaseException as error:
        raise Unloadable(f"{_place(error)}{type(error).__name__}: {error}") from error


def _of_file(path: str) -> Any:
    file = Path(path)
    # Not its plain name, which may be that of a module of Python's own.
    spec = importlib.util.spec_from_file_location(f"{file.stem}_of_environment", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: "
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen ")
        and frame.filename not in (__file__, importlib.__file__)
    ]
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
