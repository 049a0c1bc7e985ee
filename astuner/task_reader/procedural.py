"""The data sets of reasoning-gym, opened by name, and all items of some, made in a process.

Knows no tasks. A data set makes an item when it is asked for. Some of them choose by the order of
texts in a set, which differs from process to process, or by Python's own random numbers. So what
shall be the same in every run is made in a process where both are fixed (`procedural_child.py`).
"""

import dataclasses
import difflib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from astuner.errors import ConfigError, TaskReadError

SECTION = "task_reader.reasoning_gym"
_OURS = ("seed", "size")
"""Options that every data set has, and that the section sets itself."""
_CHILD = "astuner.task_reader.procedural_child"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRecipe:
    """Which items of a data set are to be made."""

    name: str
    options: Mapping[str, Any]
    seed: int
    size: int
    """Items `0` to `size - 1`; some data sets depend on how many there are."""


def make_entries(recipes: Sequence[ItemRecipe]) -> Generator[dict[str, Any], None, None]:
    """All entries of the recipes, in order, as JSON-able data; the same whenever they are made.

    Raises ConfigError as `open_dataset` does, before any is made, and TaskReadError for an item
    that cannot be.
    """
    for recipe in recipes:
        open_dataset(recipe)
    with tempfile.TemporaryFile() as said, _child(said) as process:
        try:
            yield from _received(process, recipes, said)
        finally:
            process.kill()


def open_dataset(recipe: ItemRecipe) -> Any:
    """The data set of the recipe, whose items may be asked for by their index.

    Raises ConfigError for a name or an option that there is not, and for values that it refuses.
    """
    name, options, kinds = recipe.name, recipe.options, _kinds()
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, n=3, cutoff=0.5)
        hint = (
            f"the nearest are {', '.join(near)}" if near else f"it has {', '.join(sorted(kinds))}"
        )
        raise ConfigError(
            f"{SECTION}.datasets: reasoning-gym has no data set {name!r}; {hint}; correct the name"
        )
    if name == "composite":
        raise ConfigError(
            f"{SECTION}.datasets: composite is a mixture of other data sets, with nothing of its "
            "own; list those in datasets, or mix them with shares by task_reader.type mixture"
        )
    _check_options(name, options, kinds[name][1])
    from reasoning_gym import create_dataset

    try:
        return create_dataset(name, **options, seed=recipe.seed, size=recipe.size)
    except Exception as error:  # each data set has checks of its own, by assert and otherwise
        raise ConfigError(
            f"{SECTION}.options.{name}: refused by the data set: {type(error).__name__}: {error}; "
            f"found {dict(options)!r:.200}; its options are {_described(kinds[name][1])}"
        ) from error


def _field_names(config_class: type) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(config_class) if f.name not in _OURS)


def _kinds() -> Mapping[str, tuple[type, type]]:
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ConfigError(
            f"{SECTION} needs reasoning-gym, which is not installed: {error}; install it with "
            "`pip install 'astuner[environments]'`"
        ) from error
    return DATASETS


def _check_options(name: str, options: Mapping[str, Any], config_class: type) -> None:
    known = _field_names(config_class)
    for option in options:
        if option in _OURS:
            raise ConfigError(
                f"{SECTION}.options.{name}.{option}: is not an option of one data set; set "
                f"{SECTION}.seed and num_tasks"
            )
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"{SECTION}.options.{name}.{option}: the data set has no such option; {hint}it has "
                f"{_described(config_class)}"
            )


def _described(config_class: type) -> str:
    return ", ".join(_field_names(config_class)) or "none"


def _child(said: IO[bytes]) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-m", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
    )


def _received(
    process: "subprocess.Popen[bytes]", recipes: Sequence[ItemRecipe], said: IO[bytes]
) -> Iterator[dict[str, Any]]:
    assert process.stdin is not None and process.stdout is not None
    asked = json.dumps([dataclasses.asdict(recipe) for recipe in recipes])
    with suppress(BrokenPipeError), process.stdin as stdin:  # it says itself why it ended
        stdin.write(asked.encode())
    for recipe in recipes:
        for index in range(recipe.size):
            line = process.stdout.readline()
            if not line:
                process.wait()
                said.seek(0)
                words = said.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise TaskReadError(
                    f"{SECTION}: {recipe.name} could not make item {index}: {words or 'killed'}; "
                    f"change {SECTION}.options.{recipe.name}, or the seed"
                )
            yield json.loads(line)
