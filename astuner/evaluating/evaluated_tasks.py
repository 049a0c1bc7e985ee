"""Which tasks a model is evaluated on: those of a split of the configuration, or of a file.

None is left out for its length, since what fits hangs on the model's tokens, and every model is to
have the same tasks.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from astuner.backbone.contaminated import contamination_of_evaluated
from astuner.backbone.environments_beside import WithEnvironments
from astuner.backbone.generated_tasks import WithGeneratedTasks
from astuner.backbone.models_closed import WithModelsClosed
from astuner.backbone.run import Run, RunResult
from astuner.backbone.traced_tasks import WithTracedTasks
from astuner.config.load import LoadedConfig
from astuner.config.reader_choice import section_of
from astuner.errors import ConfigError, Quit
from astuner.evaluation.read import tags_of
from astuner.launch import run_to_end
from astuner.run_dir import RunDir
from astuner.task_reader import make_task_reader
from astuner.task_reader.jsonl_dataset_file import read_task_file
from astuner.task_reader.local_path import find_path, places
from astuner.task_reader.reader import TaskReader, tasks_of_test
from astuner.types import Task

TEST, VALIDATION = "test", "validation"
_SPLITS = (TEST, VALIDATION)
_BY_SIGNAL = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedTasks:
    """The tasks, and what they are called."""

    split: str
    """test, validation, or the path of a file."""
    tasks: Sequence[Task]
    warnings: Sequence[str] = ()
    """Which of them runs of the same settings train on or choose by, in words."""

    def without_rest(self, max_tasks: int | None) -> "EvaluatedTasks":
        return replace(self, tasks=self.tasks[:max_tasks])

    def check_has(self, field: str | None) -> None:
        """Raises ConfigError for a field by which none of them can be told from others."""
        known = self.tags
        if field is not None and field not in known:
            raise ConfigError(
                f"--by {field}: no task has it with a number or a short text; there are "
                f"{', '.join(sorted(known)) or 'none'}"
            )

    @property
    def tags(self) -> dict[str, set[str]]:
        """The values of each tag that tasks have."""
        found: dict[str, set[str]] = {}
        for task in self.tasks:
            for name, value in tags_of(task.model_dump(include={"source", "metadata"})).items():
                found.setdefault(name, set()).add(value)
        return found


def read_evaluated_tasks(run: Run, loaded: LoadedConfig, split: str | None) -> EvaluatedTasks:
    """Those of `split`, or where it is None of the first of test and validation that there is.

    What tasks come from is started for it, and generated where it has to be. Raises ConfigError for
    a split that is not there and where there are no tasks, TaskReadError for what cannot be read.
    """
    if split is not None and split not in _SPLITS:
        return _compared(run, _of_file(split, run.search_dirs))
    found: list[EvaluatedTasks] = []
    with tempfile.TemporaryDirectory(prefix="astuner-tasks-") as folder:
        reading = _TaskReading(split, found.append)
        traced = WithTracedTasks(reading, file_of=loaded.traced_tasks_file)
        with_tasks = WithGeneratedTasks(traced, folder_of=loaded.generated_set_dir)
        backbone = WithModelsClosed(WithEnvironments(with_tasks))
        result = run_to_end(backbone, replace(run, run_dir=RunDir(root=Path(folder))))
    if not found:  # generating them was ended by a signal
        raise Quit(result.exit_code - _BY_SIGNAL)
    return found[0]


@dataclass(frozen=True, slots=True)
class _TaskReading:
    """A backbone that reads tasks and does nothing else."""

    split: str | None
    found: Callable[[EvaluatedTasks], None]

    async def run(self, run: Run) -> RunResult:
        settings = run.settings.task_reader
        section = getattr(settings, section_of(settings.type), None)
        reader = make_task_reader(
            settings.type, section.model_dump() if section else {}, run.search_dirs
        )
        found = _of_reader(reader, self.split, reader_type=settings.type)
        self.found(_compared(run, found))
        return RunResult(run_dir=run.run_dir.root)


def _compared(run: Run, found: EvaluatedTasks) -> EvaluatedTasks:
    warnings = contamination_of_evaluated(run, found.tasks, split=found.split)
    return replace(found, warnings=warnings)


def _of_reader(reader: TaskReader, split: str | None, *, reader_type: str) -> EvaluatedTasks:
    for name in _SPLITS if split is None else (split,):
        tasks = tasks_of_test(reader) if name == TEST else reader.get_validation_tasks()
        if tasks:
            return EvaluatedTasks(split=name, tasks=tasks)
    asked = "neither test nor validation tasks" if split is None else f"no {split} tasks"
    raise ConfigError(
        f"task_reader.type {reader_type} has {asked}; name the {split or TEST} split in its "
        "section, or give a jsonl file of tasks by --split FILE"
    )


def check_is_there(split: str, search_dirs: Sequence[Path], *, key: str) -> None:
    """Raises ConfigError for what is neither a split nor a file of tasks; `key` names it."""
    if split not in _SPLITS:
        _find_file(split, search_dirs, key=key)


def _of_file(name: str, search_dirs: Sequence[Path]) -> EvaluatedTasks:
    path = _find_file(name, search_dirs, key="--split")
    return EvaluatedTasks(split=str(path), tasks=read_task_file(path))


def _find_file(name: str, search_dirs: Sequence[Path], *, key: str) -> Path:
    path = find_path(name, search_dirs)
    if path is None:
        looked = ", ".join(str(place) for place in places(name, search_dirs))
        raise ConfigError(
            f"{key} {name}: it is neither test nor validation, and no file; looked for {looked}"
        )
    if path.is_dir():
        raise ConfigError(f"{key} {name}: {path} is a folder; name a jsonl file of tasks in it")
    return path
