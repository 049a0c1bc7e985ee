"""`HarborEnvironments`: the instances of task folders, on this machine."""

import asyncio
import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from astuner.config.sections.sandbox import SandboxSettings
from astuner.env_service.harbor.folder import FOLDER_KEY, read_harbor_task
from astuner.env_service.harbor.instance import HarborInstance
from astuner.env_service.harbor.needs import NeedsMore
from astuner.errors import ConfigError, EnvServiceError, TaskReadError
from astuner.sandbox.sandbox import Sandbox, open_sandbox
from astuner.sandbox.scratch import remove
from astuner.types import Task

_MEGABYTE = 1024 * 1024


class HarborEnvironments:
    """Makes each instance in a scratch folder of its own. Keeps nothing open."""

    name = "task folders in Harbor's format"

    def __init__(self, sandbox: Sandbox, *, max_bytes: int) -> None:
        """Raises ConfigError for a sandbox that cannot show a folder where a task wants it."""
        if sandbox.kind != "bubblewrap":
            raise ConfigError(
                "task_reader.type harbor: its tasks have folders such as /app and /tests, which a "
                f"sandbox of the kind {sandbox.kind} cannot show; install the package bubblewrap, "
                "and leave astuner.sandbox.kind at auto"
            )
        self._sandbox = sandbox
        self._max_bytes = max_bytes

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], sandbox: SandboxSettings) -> Self:
        """From the sections task_reader.harbor and sandbox."""
        del settings  # where the folders lie is said by each task
        return cls(open_sandbox(sandbox), max_bytes=sandbox.disk_mb * _MEGABYTE)

    async def create(self, task: Task, *, episode_id: str, seed: int) -> HarborInstance:
        """The instance of a task of `HarborReader`. Nothing in it is random."""
        del seed
        making = asyncio.create_task(asyncio.to_thread(self._make, task, episode_id))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            with contextlib.suppress(EnvServiceError):
                await (await making).release()
            raise

    async def close(self) -> None:
        pass

    def _make(self, task: Task, episode_id: str) -> HarborInstance:
        folder = task.metadata.get(FOLDER_KEY)
        if not isinstance(folder, str):
            raise EnvServiceError(
                f"task {task.task_id}: metadata.{FOLDER_KEY} is {folder!r:.80}, where its folder "
                "belongs; read it by task_reader.type harbor"
            )
        scratch = Path(tempfile.mkdtemp(prefix="astuner-harbor-"))
        try:
            return HarborInstance(
                read_harbor_task(Path(folder)),
                self._sandbox,
                scratch,
                instance_id=episode_id,
                max_bytes=self._max_bytes,
            )
        except (TaskReadError, NeedsMore, OSError) as error:
            remove(scratch)
            raise EnvServiceError(
                f"harbor task {task.task_id} in {folder} could not be laid out: {error}"
            ) from error
