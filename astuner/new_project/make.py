"""Writes a new project: the files of its kind with its name and model, and small tasks.

Nothing that exists is touched.
"""

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

from astuner.errors import ConfigError
from astuner.new_project.kinds import KINDS

HUB_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""What is tuned where no folder with a model is at hand."""
_SUFFIX = ".template"
"""Of files that are filled in, and are no modules of this package."""
_SPLITS = {"train": 64, "validation": 18, "test": 18}
"""Tasks of each; together all sums of two numbers up to 10. With 0, a wrong product or difference
ends in the right number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProject:
    """A project that was written."""

    folder: Path
    conf_file: str
    """Name of its YAML, inside of the folder."""
    model: str
    """As its YAML names it."""
    missing: Sequence[str]
    """Packages that its workflow needs and that are not installed."""
    install: str
    """What pip is told to bring them."""


def make_project(folder: Path, *, kind: str, model: str | None) -> NewProject:
    """Write a project of one of `KINDS` to a folder that is not there, or is empty.

    `model` is a folder or hub name; None: a model folder below `models/` here or one folder up,
    else a small one of the hub. Raises ConfigError where the folder is in use, cannot be written,
    or has a name that no module could have.
    """
    name = _name_of(folder)
    _check_is_free(folder)
    shown_model = _model_of(folder, model)
    values = {"name": name, "model": json.dumps(shown_model), "kind": kind}
    chosen = KINDS[kind]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as scratch:
            partial = Path(scratch) / name
            for source in ("all", kind):
                _fill(files("astuner.new_project") / "files" / source, partial, values)
            if chosen.reads_tasks:
                _write_tasks(partial / "tasks")
            if folder.exists():
                folder.rmdir()
            partial.rename(folder)
    except OSError as error:
        raise ConfigError(
            f"init: the folder {folder} cannot be written: {error.strerror} ({error.filename}); "
            "name another one"
        ) from error
    return NewProject(
        folder=folder,
        conf_file=f"{name}.yaml",
        model=shown_model,
        missing=[package for package in chosen.packages if find_spec(package) is None],
        install=chosen.install,
    )


def _name_of(folder: Path) -> str:
    name = folder.absolute().name
    if not re.fullmatch(r"[A-Za-z]\w*(-\w+)*", name, re.ASCII):
        raise ConfigError(
            f"init: {name!r} is no name for a project; begin with a letter, and go on with "
            "letters, digits, _ and -"
        )
    return name


def _check_is_free(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        raise ConfigError(
            f"init: {folder} is there already, and nothing in it is overwritten; name a folder "
            "that is new or empty"
        )


def _model_of(folder: Path, model: str | None) -> str:
    """Folders as seen from the project, so that it may be moved together with them."""
    named = Path(model).expanduser() if model is not None else _found_model()
    if named is None or not named.is_dir():
        return model or HUB_MODEL
    if named.absolute().is_relative_to(folder.absolute().parent):
        return str(Path("..") / named.absolute().relative_to(folder.absolute().parent))
    return str(named.absolute())


def _found_model() -> Path | None:
    places = (Path("models"), Path("..", "models"))
    configs = (file for place in places for file in sorted(place.glob("*/config.json")))
    return next((file.parent for file in configs), None)


def _fill(source: Traversable, folder: Path, values: Mapping[str, str]) -> None:
    """The files below `source` with their values; a name may hold one too."""
    for relative, file in _walk(source):
        target = folder / Template(relative.removesuffix(_SUFFIX)).substitute(values)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = Template(file.read_text(encoding="utf-8")).substitute(values)
        target.write_text(text, encoding="utf-8")


def _walk(source: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(source.iterdir(), key=lambda one: one.name):
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry


def _write_tasks(folder: Path) -> None:
    sums = [(a, b) for a in range(1, 11) for b in range(1, 11)]
    random.Random(0).shuffle(sums)
    folder.mkdir(parents=True)
    for split, count in _SPLITS.items():
        taken, sums = sums[:count], sums[count:]
        lines = (
            json.dumps({"main_query": f"What is {a} + {b}?", "metadata": {"answer": str(a + b)}})
            for a, b in taken
        )
        (folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines))
