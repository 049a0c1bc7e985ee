"""Tasks that stand in two splits of a run, told at its start and by whoever evaluates.

Owns which tasks are compared; how, is the business of `evaluation/contamination.py`.
"""

from collections.abc import Iterator, Mapping, Sequence

from astuner.backbone.run import Run
from astuner.errors import ConfigError, TaskReadError
from astuner.evaluation.contamination import find_contaminations
from astuner.task_reader import make_task_reader
from astuner.task_reader.mixture import MixtureReader
from astuner.task_reader.reader import TaskReader, tasks_of_test
from astuner.task_reader.sources import task_sources
from astuner.types import Task

_HAS_NO_CONTENT = ("random_dummy",)
"""Types whose tasks are numbers, the same for training and validation."""
_READS_FROM_DISK = (
    "jsonl_dataset_file",
    "huggingface_dat_repo",
    "harbor",
    "data_generation",
    "tracing",
)
"""Types whose other splits are read only to be compared; the rest ask servers, or make tasks that
are in no other split."""


def warn_of_contamination(run: Run, training: Sequence[Task], validation: Sequence[Task]) -> None:
    """Say which tasks of the validation and the test of a run stand in an earlier split too.

    Raises what the reader does for a test that cannot be read, before anything is trained.
    """
    for line in (
        *_lines(run, validation, {"training": training}, split="validation"),
        *contamination_of_test(run, read_test_from_disk(run), training, validation),
    ):
        run.console.warn(line)


def read_test_from_disk(run: Run) -> list[Task]:
    """The test tasks of those sources that cost little to read. Raises what the reader does."""
    reader = _reader_from_disk(run)
    return [] if reader is None else tasks_of_test(reader)


def contamination_of_test(
    run: Run, test: Sequence[Task], training: Sequence[Task], validation: Sequence[Task]
) -> list[str]:
    """Which test tasks a run trains on or chooses by: a line for each of the two."""
    known = {"training": training, "validation": validation}
    return list(_lines(run, test, known, split="test"))


def contamination_of_evaluated(run: Run, tasks: Sequence[Task], *, split: str) -> list[str]:
    """What to warn of before an evaluation on `tasks`: those that runs of these settings train on
    or choose by. `split` is test, validation, or the name of a file.

    Where the training cannot be read, as on another machine, that is what it says.
    """
    try:
        reader = _reader_from_disk(run)
        if reader is None:
            return []
        known = {"training": reader.get_training_tasks()}
        if split != "validation":
            known["validation"] = reader.get_validation_tasks()
    except (ConfigError, TaskReadError) as error:
        return [f"whether tasks of {split} were trained on is not known: {error}"]
    return list(_lines(run, tasks, known, split=split))


def _lines(
    run: Run, tasks: Sequence[Task], others: Mapping[str, Sequence[Task]], *, split: str
) -> Iterator[str]:
    """A line for each of the others that shares tasks, with what to do."""
    types = {name: source.type for name, source in task_sources(run.settings.task_reader).items()}

    def compared(tasks: Sequence[Task]) -> list[Task]:
        return [task for task in tasks if types.get(task.source) not in _HAS_NO_CONTENT]

    known = {other: compared(of_other) for other, of_other in others.items()}
    for found in find_contaminations(compared(tasks), known, split=split):
        yield (
            f"{found.line()}. What a model does on them tells in part what it remembers: leave "
            f"them out of {found.other} or of {found.split}"
        )


def _reader_from_disk(run: Run) -> TaskReader | None:
    """Of the sources that cost little to read; None where there are none."""
    readers: dict[str, TaskReader] = {
        name: make_task_reader(source.type, source.settings, run.search_dirs)
        for name, source in task_sources(run.settings.task_reader).items()
        if source.type in _READS_FROM_DISK
    }
    return readers.get("") or (MixtureReader(readers) if readers else None)
