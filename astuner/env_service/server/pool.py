"""Processes that wait for an instance of one environment, their environment made already."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

from astuner.env_service.server.worker import EnvironmentWorker
from astuner.env_service.server.world import ServerSettings, World
from astuner.env_service.server.zygote import Zygote
from astuner.errors import ConfigError
from astuner.serving.refusal import Refusal

logger = logging.getLogger(__name__)


class MadeEnvironment:
    """A process with an environment that was not reset yet."""

    def __init__(self, worker: EnvironmentWorker, action_preference: str) -> None:
        self.worker = worker
        self.action_preference = action_preference
        """Of the class: the form of an action where a client names none."""


class _Orphaned(Refusal):
    """It ended with the process that it came from; from the next one it may be made."""


class EnvironmentPool:
    """Of one environment."""

    def __init__(self, world: World, settings: ServerSettings) -> None:
        self.name = world.name
        self._settings = settings
        self._zygote = Zygote(world, settings)
        self._spares: deque[asyncio.Task[MadeEnvironment]] = deque()
        """Oldest first; some may still be on their way, or have failed."""
        self._is_closed = False

    async def start(self) -> None:
        """Raises ConfigError where the class cannot be imported or made."""
        await self._zygote.start()
        self._refill()
        try:
            await asyncio.gather(*list(self._spares)[:1])
        except Refusal as refusal:
            raise ConfigError(f"{refusal.message}; mend that, or its options") from refusal

    async def take(self) -> MadeEnvironment:
        """Raises Refusal where the environment cannot be made. The process is the caller's."""
        for _ in range(len(self._spares)):  # those that were killed while they waited are left out
            spare = self._spares.popleft()
            self._refill()
            with contextlib.suppress(_Orphaned):
                made = await _never_lost(spare)
                if not made.worker.has_ended:
                    return made
        with contextlib.suppress(_Orphaned):
            return await _never_lost(asyncio.create_task(self._make()))
        return await _never_lost(asyncio.create_task(self._make()))

    async def task_ids(self, split: str) -> Sequence[str]:
        """Raises Refusal, also for a split that is not there."""
        worker = EnvironmentWorker(self._zygote, name=self.name)
        try:
            await worker.start()
            return await worker.ask(
                "task_ids",
                split=split,
                timeout_seconds=self._settings.reset_timeout_seconds,
                doing=f"listing the tasks of {split}",
            )
        finally:
            await worker.end()

    async def close(self) -> None:
        self._is_closed = True
        for spare in self._spares:
            spare.cancel()
        if self._spares:
            await asyncio.wait(self._spares)
        self._spares.clear()
        await self._zygote.close()

    def _refill(self) -> None:
        while len(self._spares) < self._settings.num_spares and not self._is_closed:
            task = asyncio.create_task(self._make())
            task.add_done_callback(_heard)
            self._spares.append(task)

    async def _make(self) -> MadeEnvironment:
        worker = EnvironmentWorker(self._zygote, name=self.name)
        try:
            await worker.start()
            made = await worker.ask(
                "make", timeout_seconds=self._settings.reset_timeout_seconds, doing="__init__"
            )
        except BaseException as error:
            await worker.end()
            if isinstance(error, Refusal) and worker.is_orphaned:
                raise _Orphaned(error.status, error.message, code=error.code) from None
            raise
        return MadeEnvironment(worker, made["action_preference"])


async def _never_lost(making: asyncio.Task[MadeEnvironment]) -> MadeEnvironment:
    """What is being made; whoever stops waiting for it leaves no process behind."""
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(_unused)
        raise


def _unused(making: asyncio.Task[MadeEnvironment]) -> None:
    if not making.cancelled() and making.exception() is None:
        making.result().worker.kill()


def _heard(making: asyncio.Task[Any]) -> None:
    """Whoever takes it is told why it failed; perhaps nobody does."""
    if not making.cancelled() and isinstance(making.exception(), Refusal):
        logger.warning("environment not made reason=%s", making.exception())
