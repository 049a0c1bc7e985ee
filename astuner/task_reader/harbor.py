"""Tasks from folders in Harbor's format: task.toml, instruction.md, tests/test.sh.

A task that asks for more than files and the sandbox, such as an image, is left out and named.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from astuner.env_service.harbor.folder import FOLDER_KEY, is_task_folder, read_harbor_task
from astuner.env_service.harbor.needs import NeedsMore
from astuner.errors import ConfigError, TaskReadError
from astuner.task_reader.local_path import find_path, places
from astuner.types import Task

logger = logging.getLogger(__name__)

_SECTION = "task_reader.harbor"
_MAX_NAMED = 10


class HarborReader:
    """Reads `task_reader.type: harbor`."""

    def __init__(
        self,
        *,
        path: str,
        validation_path: str | None = None,
        test_path: str | None = None,
        search_dirs: Sequence[Path] = (),
    ) -> None:
        self._path, self._validation_path, self._test_path = path, validation_path, test_path
        self._search_dirs = search_dirs

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], search_dirs: Sequence[Path]) -> Self:
        if not settings["path"]:
            raise ConfigError(
                f"{_SECTION}.path is not set; give a task folder in Harbor's format, or a folder "
                "of them"
            )
        return cls(
            path=settings["path"],
            validation_path=settings["validation_path"],
            test_path=settings.get("test_path"),
            search_dirs=search_dirs,
        )

    def get_training_tasks(self) -> list[Task]:
        return self._read("path", self._path)

    def get_validation_tasks(self) -> list[Task]:
        return self._read("validation_path", self._validation_path)

    def get_test_tasks(self) -> list[Task]:
        return self._read("test_path", self._test_path)

    def _read(self, key: str, path: str | None) -> list[Task]:
        if not path:
            return []
        folder = find_path(path, self._search_dirs)
        if folder is None or not folder.is_dir():
            tried = ", ".join(str(place) for place in places(path, self._search_dirs))
            raise ConfigError(
                f"{_SECTION}.{key}: no such folder; looked for {tried}; relative paths start at "
                "the current directory or at the folder of the YAML"
            )
        return read_task_folders(folder)


def read_task_folders(folder: Path) -> list[Task]:
    """The task of a folder, or the tasks of the folders in it, by name.

    Raises TaskReadError, naming the folder, for one that is not whole, and where no task is left
    that can be run here.
    """
    if is_task_folder(folder):
        folders = [folder]
    else:
        folders = [path for path in sorted(folder.iterdir()) if is_task_folder(path)]
    tasks, left_out = [], []
    for path in folders:
        try:
            tasks.append(_task(path))
        except NeedsMore as need:
            left_out.append(f"task {path.name} needs {need}")
    if not tasks:
        found = _named(left_out) if left_out else "no folder with task.toml in it"
        raise TaskReadError(
            f"{folder}: no task that can be run here, without a container; found {found}; give a "
            "folder of tasks that need files only"
        )
    if left_out:
        logger.warning(
            "harbor tasks left out num=%d of=%d path=%s: %s",
            *(len(left_out), len(folders), folder, _named(left_out)),
        )
    return tasks


def _task(path: Path) -> Task:
    found = read_harbor_task(path)
    return Task(
        main_query=found.instruction,
        task_id=found.task_id,
        env_type="harbor",
        metadata={FOLDER_KEY: str(path.resolve())},
    )


def _named(left_out: Sequence[str]) -> str:
    others = len(left_out) - _MAX_NAMED
    return "; ".join(left_out[:_MAX_NAMED]) + (f"; and {others} more" if others > 0 else "")
