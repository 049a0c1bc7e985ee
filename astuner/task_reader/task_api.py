"""The lists of tasks that servers of OpenEnv and of the Open Reward Standard have, by the same
routes. A task is a split and an index in it; what it is about, only its environment says.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from astuner.env_service.remote_server import RemoteServer, said_by
from astuner.errors import TaskReadError
from astuner.types import Task

_NOT_THERE = (404, 405, 501)


class TaskApi:
    """One server, asked by one reader; `with` closes its connection."""

    def __init__(self, server: RemoteServer, **headers: str) -> None:
        self._server = server
        self._client = httpx.Client(**server.client_options(**headers))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._client.close()

    def environment(self, wanted: str | None) -> str | None:
        """Its name: `wanted`, or that of the only one; None where the server has no such list.

        Raises TaskReadError where `wanted` is not there, or several are and none is wanted.
        """
        names = self._ask("GET", "/list_environments")
        if names is None:
            return None
        if not isinstance(names, list) or not names:
            raise self._failed("/list_environments", f"found {names!r:.200}; expected names")
        by_lower_case = {str(name).lower(): str(name) for name in names}
        if wanted is None and len(names) == 1:
            return str(names[0])
        if (wanted or "").lower() not in by_lower_case:
            raise TaskReadError(
                f"{self._server.section}.env is {wanted!r}; the server at {self._server.url} has "
                f"{', '.join(map(str, names))}: name one of them"
            )
        return by_lower_case[str(wanted).lower()]

    def tasks(self, environment: str, split: str) -> list[Task] | None:
        """Of one split, in order; None where the environment has no list of tasks.

        Raises TaskReadError for a split that is not there, and for an empty one.
        """
        names = self._split_names(environment)
        if names is None:
            return None
        if split not in names:
            raise TaskReadError(
                f"{self._server.section}: {environment} at {self._server.url} has no split "
                f"{split!r}; there are {', '.join(names) or 'none'}: correct training_split, "
                "validation_split or test_split"
            )
        number = self._number_of_tasks(environment, split)
        if number is None:
            return None
        if number < 1:
            raise TaskReadError(
                f"{environment} at {self._server.url}: split {split!r} has {number} tasks; choose "
                f"another split in {self._server.section}"
            )
        return [
            Task(
                main_query="",
                task_id=f"{split}-{index}",
                env_type=environment,
                metadata={"split": split, "index": index},
            )
            for index in range(number)
        ]

    def require(self, path: str) -> None:
        """Raises TaskReadError where nobody answers there."""
        if self._ask("GET", path) is None:
            raise self._failed(
                path,
                f"there is no such route; see whether {self._server.section}.url is the address of "
                "the server itself",
            )

    def _split_names(self, environment: str) -> list[str] | None:
        path = f"/{environment}/splits"
        splits = self._ask("GET", path)
        if splits is None:
            return None
        try:
            return [split if isinstance(split, str) else split["name"] for split in splits]
        except (TypeError, KeyError) as error:
            raise self._failed(path, f"found {splits!r:.200}; expected splits") from error

    def _number_of_tasks(self, environment: str, split: str) -> int | None:
        path = f"/{environment}/num_tasks"
        counted = self._ask("POST", path, {"split": split})
        if counted is None:
            return None
        number = counted.get("num_tasks") if isinstance(counted, Mapping) else None
        if not isinstance(number, int):
            raise self._failed(path, f"found {counted!r:.200}; expected num_tasks")
        return number

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """None where the server has no such route."""
        try:
            response = self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self._failed(path, self._server.why(error)) from error
        if response.status_code in _NOT_THERE:
            return None
        if response.is_error:
            raise self._failed(path, f"{said_by(response)}; see the log of the server")
        try:
            return response.json()
        except ValueError as error:
            raise self._failed(
                path,
                f"found {response.text!r:.200}, which is no JSON; see whether "
                f"{self._server.section}.url is the address of the server itself",
            ) from error

    def _failed(self, path: str, why: str) -> TaskReadError:
        return TaskReadError(f"tasks of {self._server.url}{path}: {why}")
