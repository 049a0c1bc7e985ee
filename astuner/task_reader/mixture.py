"""The tasks of several readers as those of one, each with the name of its source.

Which of them make a batch, and how often each is used, is the business of `order`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain, zip_longest

from astuner.errors import ConfigError, TaskReadError
from astuner.task_reader.reader import TaskReader, tasks_of_test
from astuner.types import Task


class MixtureReader:
    """Reads `task_reader.type: mixture`. Task ids begin with the name of their source."""

    def __init__(self, readers: Mapping[str, TaskReader]) -> None:
        """The readers by the names of their sources."""
        if not readers:
            raise ConfigError(
                "task_reader.mixture.sources is empty; name at least one: "
                "{sums: {type: jsonl_dataset_file, share: 2, jsonl_dataset_file: {…}}}"
            )
        self._readers = readers

    def get_training_tasks(self) -> list[Task]:
        return [
            task
            for name, reader in self._readers.items()
            for task in _read(name, reader.get_training_tasks)
        ]

    def get_validation_tasks(self) -> list[Task]:
        """One of each source in turn, so that the first few are of all sources."""
        return in_turns(
            task
            for name, reader in self._readers.items()
            for task in _read(name, reader.get_validation_tasks)
        )

    def get_test_tasks(self) -> list[Task]:
        """In turns, as those of the validation; of the sources that have any."""
        return in_turns(
            task
            for name, reader in self._readers.items()
            for task in _read(name, partial(tasks_of_test, reader))
        )


def in_turns(tasks: Iterable[Task]) -> list[Task]:
    """One of each source, then the next one of each; those of a source stay in order."""
    by_source: defaultdict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        by_source[task.source].append(task)
    turns = zip_longest(*by_source.values())
    return [task for task in chain.from_iterable(turns) if task is not None]


@contextmanager
def naming_the_source(name: str) -> Iterator[None]:
    """What a reader says of its section stands in a source's."""
    try:
        yield
    except (ConfigError, TaskReadError) as error:
        raise type(error)(f"task_reader.mixture.sources.{name}: {error}") from error


def _read(name: str, read: Callable[[], list[Task]]) -> list[Task]:
    with naming_the_source(name):
        tasks = read()
    return [
        task.model_copy(update={"source": name, "task_id": f"{name}/{task.task_id}"})
        for task in tasks
    ]
