"""Tasks from a file with one JSON object per line.

    {"main_query": "What is 2+3?", "task_id": "sum-1", "metadata": {"answer": "5"}}
    {"main_query": "What is 2+4?", "answer": "6"}

`main_query` is required; the other fields of `Task` may be left out. Fields that `Task` does not
have become metadata, so both lines above give `metadata["answer"]`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from astuner.errors import ConfigError, TaskReadError
from astuner.task_reader.json_lines import JsonLine, read_json_lines
from astuner.task_reader.local_path import find_path, places
from astuner.types import Task

_SECTION = "task_reader.jsonl_dataset_file"
_FIELDS = Task.model_fields.keys() - {"source"}
"""Of a line. `source` is a mixture's own; in a file it is a field like any other."""


class JsonlDatasetFileReader:
    """Reads `task_reader.type: jsonl_dataset_file`."""

    def __init__(
        self,
        *,
        training_file: str,
        validation_file: str | None = None,
        test_file: str | None = None,
        search_dirs: Sequence[Path] = (),
    ) -> None:
        self._training_file = training_file
        self._validation_file = validation_file
        self._test_file = test_file
        self._search_dirs = search_dirs

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], search_dirs: Sequence[Path]) -> Self:
        training_file = _file_path(settings, "training")
        if not training_file:
            raise ConfigError(
                f"{_SECTION}.training.file_path is not set; found {settings!r:.200}; give the "
                "path of a jsonl file"
            )
        return cls(
            training_file=training_file,
            validation_file=_file_path(settings, "validation"),
            test_file=_file_path(settings, "test"),
            search_dirs=search_dirs,
        )

    def get_training_tasks(self) -> list[Task]:
        return self._read("training", self._training_file)

    def get_validation_tasks(self) -> list[Task]:
        return self._read("validation", self._validation_file)

    def get_test_tasks(self) -> list[Task]:
        return self._read("test", self._test_file)

    def _read(self, split: str, file_path: str | None) -> list[Task]:
        if not file_path:
            return []
        path = find_path(file_path, self._search_dirs)
        if path is not None and path.is_dir():
            raise ConfigError(
                f"{_SECTION}.{split}.file_path: {path} is a folder; name a file in it, or read the "
                "folder with task_reader.type huggingface_dat_repo"
            )
        if path is None:
            tried = ", ".join(str(place) for place in places(file_path, self._search_dirs))
            raise ConfigError(
                f"{_SECTION}.{split}.file_path: no such file; looked for {tried}; relative paths "
                "start at the current directory or at the folder of the YAML"
            )
        return read_task_file(path)


def _file_path(settings: Mapping[str, Any], split: str) -> str | None:
    return (settings.get(split) or {}).get("file_path")


def read_task_file(path: Path) -> list[Task]:
    """The tasks of one file, in its order. A task without `task_id` gets its line number.

    Raises TaskReadError, naming file and line, for a line that is no task, for an id that occurs
    twice, and for a file without tasks.
    """
    tasks: dict[str, Task] = {}
    lines: dict[str, int] = {}
    for line in read_json_lines(path):
        task = _to_task(line)
        if task.task_id in tasks:
            raise TaskReadError(
                f"{line.place}: task_id {task.task_id!r} is already that of line "
                f"{lines[task.task_id]}; give every task its own id, or none at all (a task "
                "without one gets its line number)"
            )
        tasks[task.task_id] = task
        lines[task.task_id] = line.number
    if not tasks:
        raise TaskReadError(f"{path}: the file holds no task; write one JSON object per line")
    return list(tasks.values())


def _to_task(line: JsonLine) -> Task:
    given = {name: value for name, value in line.fields.items() if value is not None}
    if "main_query" not in given:
        raise TaskReadError(
            f"{line.place}: field 'main_query' is missing; found {sorted(line.fields)}; put the "
            "question there"
        )
    task_id = given.setdefault("task_id", line.number)
    if isinstance(task_id, int) and not isinstance(task_id, bool):
        given["task_id"] = str(task_id)
    others = {name: value for name, value in line.fields.items() if name not in _FIELDS}
    fields = {name: value for name, value in given.items() if name in _FIELDS}
    if isinstance(fields.setdefault("metadata", {}), dict):
        fields["metadata"] = {**others, **fields["metadata"]}
    try:
        return Task.model_validate(fields, strict=True)
    except ValidationError as error:
        raise TaskReadError(_describe(error, line.place)) from error


def _describe(error: ValidationError, place: str) -> str:
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    found = problem["input"]
    return (
        f"{place}: field {field!r} has the wrong type: {problem['msg'].lower()}; found "
        f"{found!r:.80} of type {type(found).__name__}; correct the line"
    )
