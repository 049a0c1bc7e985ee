"""Tasks that an environment service has: it is asked for their ids, and knows the rest itself."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from astuner.env_service.profile import list_task_ids
from astuner.env_service.service_address import EnvServiceAddress
from astuner.errors import EnvServiceError, TaskReadError
from astuner.types import Task

_SECTION = "task_reader.env_service"


class EnvServiceReader:
    """Reads `task_reader.type: env_service`. What a task asks, the instance of an episode says."""

    def __init__(
        self,
        address: EnvServiceAddress,
        *,
        training_split: str,
        validation_split: str | None,
        test_split: str | None = None,
    ) -> None:
        self._address = address
        self._training_split = training_split
        self._validation_split = validation_split
        self._test_split = test_split

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], search_dirs: Sequence[Path] = ()) -> Self:
        del search_dirs  # nothing is read from disk
        return cls(
            EnvServiceAddress.from_settings(settings),
            training_split=settings["training_split"],
            validation_split=settings["validation_split"],
            test_split=settings.get("test_split"),
        )

    def get_training_tasks(self) -> list[Task]:
        return self._read(self._training_split, "training_split")

    def get_validation_tasks(self) -> list[Task]:
        return self._read(self._validation_split, "validation_split")

    def get_test_tasks(self) -> list[Task]:
        return self._read(self._test_split, "test_split")

    def _read(self, split: str | None, key: str) -> list[Task]:
        if split is None:
            return []
        where = f"{_SECTION}.{key} {split!r} of {self._address.name}"
        try:
            ids = list_task_ids(self._address, split)
        except EnvServiceError as error:
            raise TaskReadError(f"{_SECTION}: {error}") from error
        if not ids:
            raise TaskReadError(f"{where}: the list of its tasks is empty; name another split")
        doubled = [task_id for task_id, times in Counter(ids).items() if times > 1]
        if doubled:
            raise TaskReadError(
                f"{where}: {len(doubled)} of its tasks are listed more than once, such as "
                f"{doubled[0]!r}; have the environment list each once"
            )
        env_type = self._address.env_type
        return [Task(main_query="", task_id=task_id, env_type=env_type) for task_id in ids]
