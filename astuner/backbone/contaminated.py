"""Tasks that stand in two splits of a run, told at its start and by whoever evaluates.

Owns which tasks are compared; how, is the business of `evaluation/contamination.py`.
"""

from collections.abc import Iterator, Mapping, Sequence

from astuner.backbone.run import Run
from astuner.config.sections.task_reader import TaskReaderSettings
from astuner.evaluation.contamination import find_contaminations
from astuner.task_reader import make_task_reader
from astuner.task_reader.mixture import MixtureReader
from astuner.task_reader.reader import TaskReader, tasks_of_test
from astuner.task_reader.sources import task_sources
from astuner.types import Task

_HAS_NO_CONTENT = ("random_dummy",)
"""Types whose tasks are numbers, the same for training and validation."""
_READS_FROM_DISK = ("jsonl_dataset_file", "huggingface_dat_repo", "harbor", "data_generation")
"""Types whose test is read at the start, to be compared; the others ask servers, or make tasks that
are in no other split."""


def warn_of_contamination(run: Run, training: Sequence[Task], validation: Sequence[Task]) -> None:
    """Say which tasks of the validation and the test stand in an earlier split too.

    Raises what the reader does for a test that cannot be read, before anything is trained.
    """
    splits = {"training": training, "validation": validation, "test": _test_tasks(run)}
    for line in contamination_lines(run.settings.task_reader, splits):
        run.console.warn(line)


def contamination_lines(
    reader: TaskReaderSettings, splits: Mapping[str, Sequence[Task]]
) -> Iterator[str]:
    """A line for each two splits that share tasks, with what to do.

    The splits are in the order training, validation, test; each is compared with those before it.
    """
    types = {name: source.type for name, source in task_sources(reader).items()}
    compared = {
        split: [task for task in tasks if types.get(task.source) not in _HAS_NO_CONTENT]
        for split, tasks in splits.items()
    }
    for found in find_contaminations(compared):
        yield (
            f"{found.line()}. What a model does on them tells in part what it remembers: leave "
            f"them out of {found.other} or of {found.split}"
        )


def _test_tasks(run: Run) -> list[Task]:
    sources = task_sources(run.settings.task_reader)
    readers: dict[str, TaskReader] = {
        name: make_task_reader(source.type, source.settings, run.search_dirs)
        for name, source in sources.items()
        if source.type in _READS_FROM_DISK
    }
    if not readers:
        return []
    return tasks_of_test(readers[""] if "" in readers else MixtureReader(readers))
