"""Tasks of an OpenEnv server: those that it lists, or as many seeds as are asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from astuner.env_service.openenv import SECTION
from astuner.env_service.remote_server import RemoteServer
from astuner.errors import TaskReadError
from astuner.task_reader.task_api import TaskApi
from astuner.types import Task

_UNNAMED = "openenv"
_FIRST_TEST_SEED = 1_000_000
"""So far away that more tasks for training or validation leave the test as it is."""


class OpenEnvReader:
    """Reads `task_reader.type: openenv`. What a task is about, its reset says."""

    def __init__(
        self,
        server: RemoteServer,
        *,
        env: str | None,
        training_split: str,
        validation_split: str | None,
        num_tasks: int,
        num_validation_tasks: int,
        test_split: str | None = None,
        num_test_tasks: int = 0,
    ) -> None:
        """The numbers are those of a server without a list of tasks."""
        self._server = server
        self._env = env
        self._training_split = training_split
        self._validation_split = validation_split
        self._num_tasks = num_tasks
        self._num_validation_tasks = num_validation_tasks
        self._test_split = test_split
        self._num_test_tasks = num_test_tasks

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], search_dirs: Sequence[Path]) -> Self:
        del search_dirs  # nothing is read from disk
        return cls(
            RemoteServer.from_settings(settings, section=SECTION),
            env=settings.get("env"),
            training_split=settings["training_split"],
            validation_split=settings.get("validation_split"),
            num_tasks=settings["num_tasks"],
            num_validation_tasks=settings["num_validation_tasks"],
            test_split=settings.get("test_split"),
            num_test_tasks=settings.get("num_test_tasks", 0),
        )

    def get_training_tasks(self) -> list[Task]:
        listed = self._listed(self._training_split)
        return self._seeds(range(self._num_tasks)) if listed is None else listed

    def get_validation_tasks(self) -> list[Task]:
        """Of a server without a list, other seeds than those of training."""
        if self._validation_split is None:
            last = self._num_tasks + self._num_validation_tasks
            return self._seeds(range(self._num_tasks, last))
        return self._of_split(self._validation_split, "validation")

    def get_test_tasks(self) -> list[Task]:
        """Of a server without a list, other seeds than those of training and validation."""
        if self._test_split is None:
            first = max(_FIRST_TEST_SEED, self._num_tasks + self._num_validation_tasks)
            return self._seeds(range(first, first + self._num_test_tasks))
        return self._of_split(self._test_split, "test")

    def _of_split(self, split: str, kind: str) -> list[Task]:
        listed = self._listed(split)
        if listed is None:
            raise TaskReadError(
                f"{SECTION}.{kind}_split is {split!r}, and the server at {self._server.url} has no "
                f"list of tasks; set it to null, and num_{kind}_tasks to how many seeds it is to "
                "have"
            )
        return listed

    def _listed(self, split: str) -> list[Task] | None:
        with TaskApi(self._server) as api:
            environment = api.environment(self._env)
            tasks = None if environment is None else api.tasks(environment, split)
            if tasks is None:
                api.require("/schema")
            return tasks

    def _seeds(self, seeds: Sequence[int]) -> list[Task]:
        environment = self._env or _UNNAMED
        return [
            Task(
                main_query="",
                task_id=f"seed-{seed}",
                env_type=environment,
                metadata={"seed": seed},
            )
            for seed in seeds
        ]
