"""Tasks that reasoning-gym makes: questions with answers that code can check, as many as wanted.

A task holds what makes it again (`metadata`: dataset, options, seed, size, index), so that it can
be judged from its record alone; see `task_judge/reasoning_gym_as_judge.py`.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

from astuner.errors import ConfigError, TaskReadError
from astuner.task_reader.procedural import SECTION, ItemRecipe, make_entries
from astuner.types import Task

logger = logging.getLogger(__name__)

_SEED_OFFSETS = {"training": 0, "validation": 1_000_003, "test": 2_000_003}
"""Item `i` of seed `s` is often item `0` of seed `s + i`, so the seeds are far apart."""
_MAKING_ORDER = ("test", "validation", "training")
"""Each leaves out what stands in those before it, so that a test stays as it is whatever else is
asked for."""
_SECONDS_BETWEEN_LINES = 5.0


class ReasoningGymReader:
    """Reads `task_reader.type: reasoning_gym`.

    A question stands in one split only, and once: those of the test are left out of the
    validation, those of both out of the training, and so is what is made a second time.
    """

    def __init__(
        self,
        *,
        datasets: Sequence[str],
        num_tasks: int,
        num_validation_tasks: int = 0,
        num_test_tasks: int = 0,
        seed: int = 42,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """`num_tasks` are made of each data set; `options` are those of a data set, by its name."""
        self._datasets = datasets
        self._sizes = {
            "training": num_tasks,
            "validation": num_validation_tasks,
            "test": num_test_tasks,
        }
        self._seed = seed
        self._options = options or {}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], search_dirs: Sequence[Path]) -> Self:
        del search_dirs  # nothing is read from disk
        datasets, options = settings.get("datasets") or (), settings.get("options") or {}
        if not datasets:
            raise ConfigError(
                f"{SECTION}.datasets names no data set; found {settings!r:.200}; list some, such "
                "as [chain_sum, letter_counting]"
            )
        if len(set(datasets)) < len(datasets):
            raise ConfigError(
                f"{SECTION}.datasets: found {list(datasets)}; name each once, and raise num_tasks"
            )
        for name, own in options.items():
            if name not in datasets or not isinstance(own, Mapping):
                raise ConfigError(
                    f"{SECTION}.options.{name}: found {own!r:.80}; options stand by the name of a "
                    f"data set of {SECTION}.datasets, which are {', '.join(datasets)}: "
                    f"{{{datasets[0]}: {{option: value}}}}"
                )
        return cls(**{**settings, "datasets": datasets, "options": options})

    def get_training_tasks(self) -> list[Task]:
        return list(self._splits["training"])

    def get_validation_tasks(self) -> list[Task]:
        return list(self._splits["validation"])

    def get_test_tasks(self) -> list[Task]:
        return list(self._made(("test",))["test"])

    @cached_property
    def _splits(self) -> Mapping[str, Sequence[Task]]:
        """All, for each leaves out what stands in those before it."""
        return self._made(_MAKING_ORDER)

    def _made(self, names: Sequence[str]) -> Mapping[str, Sequence[Task]]:
        """Those splits, which come first in the order of making."""
        parts = [part for name in names for part in self._parts(name)]
        splits: dict[str, list[Task]] = {name: [] for name in names}
        seen: set[str] = set()
        with closing(make_entries([part.recipe for part in parts])) as entries:
            for part in parts:
                splits[part.split] += _tasks(part, _counted(entries, part.recipe), seen)
        return splits

    def _parts(self, split: str) -> list["_SplitPart"]:
        size, seed = self._sizes[split], self._seed + _SEED_OFFSETS[split]
        return [
            _SplitPart(
                split=split,
                recipe=ItemRecipe(
                    name=name, options=dict(self._options.get(name, {})), seed=seed, size=size
                ),
            )
            for name in self._datasets
            if size
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _SplitPart:
    """What is made of one data set for one split."""

    split: str
    recipe: ItemRecipe


def _tasks(part: _SplitPart, entries: Iterable[Mapping[str, Any]], seen: set[str]) -> list[Task]:
    """The tasks whose questions are not `seen` yet; they are then."""
    recipe, tasks = part.recipe, []
    prefix = recipe.name if part.split == "training" else f"{recipe.name}-{part.split}"
    for index, entry in enumerate(entries):
        if entry["question"] in seen:
            continue
        seen.add(entry["question"])
        kept = {"answer": entry["answer"], "metadata": entry["metadata"]}
        tasks.append(
            Task(
                main_query=entry["question"],
                task_id=f"{prefix}-{index}",
                metadata={
                    "dataset": recipe.name,
                    "options": recipe.options,
                    "seed": recipe.seed,
                    "size": recipe.size,
                    "index": index,
                    **kept,
                },
            )
        )
    logger.info(
        "reasoning_gym made dataset=%s split=%s tasks=%d dropped_duplicates=%d",
        recipe.name,
        part.split,
        len(tasks),
        recipe.size - len(tasks),
    )
    if not tasks:
        raise TaskReadError(
            f"{SECTION}: each of the {recipe.size} {part.split} questions of {recipe.name} stands "
            f"in another split, or in another data set; its options leave too few: "
            f"{recipe.options!r:.200}; widen them, or lower num_validation_tasks and num_test_tasks"
        )
    return tasks


def _counted(entries: Iterator[dict[str, Any]], recipe: ItemRecipe) -> Iterator[dict[str, Any]]:
    """Those of one recipe; what takes long says how far it is."""
    said = time.monotonic()
    for index, entry in enumerate(islice(entries, recipe.size)):
        if time.monotonic() - said > _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            logger.info(
                "reasoning_gym makes dataset=%s done=%d of=%d", recipe.name, index, recipe.size
            )
        yield entry
