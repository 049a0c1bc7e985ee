"""Tasks of a server of the Open Reward Standard, by their places in a split."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from astuner.env_service.ors import SECTION, key_header
from astuner.env_service.remote_server import RemoteServer
from astuner.errors import TaskReadError
from astuner.task_reader.task_api import TaskApi
from astuner.types import Task


class OrsReader:
    """Reads `task_reader.type: ors`. What a task is about, the prompt of its session says."""

    def __init__(
        self,
        server: RemoteServer,
        *,
        env: str | None,
        training_split: str,
        validation_split: str | None,
        test_split: str | None = None,
    ) -> None:
        self._server = server
        self._env = env
        self._training_split = training_split
        self._validation_split = validation_split
        self._test_split = test_split

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], search_dirs: Sequence[Path]) -> Self:
        del search_dirs  # nothing is read from disk
        return cls(
            RemoteServer.from_settings(settings, section=SECTION),
            env=settings.get("env"),
            training_split=settings["training_split"],
            validation_split=settings.get("validation_split"),
            test_split=settings.get("test_split"),
        )

    def get_training_tasks(self) -> list[Task]:
        return self._read(self._training_split)

    def get_validation_tasks(self) -> list[Task]:
        return [] if self._validation_split is None else self._read(self._validation_split)

    def get_test_tasks(self) -> list[Task]:
        return [] if self._test_split is None else self._read(self._test_split)

    def _read(self, split: str) -> list[Task]:
        with TaskApi(self._server, **key_header(self._server)) as api:
            environment = api.environment(self._env)
            tasks = None if environment is None else api.tasks(environment, split)
        if tasks is None:
            raise TaskReadError(
                f"{SECTION}: the server at {self._server.url} has no list of tasks "
                f"(/list_environments, /{environment or 'ENV'}/splits, …/num_tasks); see whether "
                "url is a server of the Open Reward Standard"
            )
        return tasks
