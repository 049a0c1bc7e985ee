"""What an episode needs around it: entered before the workflow, left after it whatever happens.

The door to the gateway is one; an environment instance or a sandbox is another. Each takes the
stage as it is and gives it with what it adds, so that the next one may build on it. Entering counts
towards the episode's deadline. Owns neither gateway nor workflow.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol

from astuner.errors import EpisodeError, SurroundingError, boundary
from astuner.gateway.door import Door
from astuner.gateway.gateway import Gateway
from astuner.inference.request import Chat
from astuner.types import WorkflowTask

logger = logging.getLogger(__name__)

_Leave = Callable[
    [type[BaseException] | None, BaseException | None, TracebackType | None], Awaitable[None]
]

_LEAVE_SECONDS = 10.0
"""What one surrounding may take to be left; the episode's own time may be over by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a workflow is about to be run with."""

    workflow_task: WorkflowTask
    chat: Chat
    """Answers the episode's model calls."""
    seconds: float
    """That the whole attempt may take."""
    deadline: float
    """When that time is over, as time.monotonic() tells it."""
    door: Door | None = None
    """Where clients over HTTP find the model; None where there is no gateway."""

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())


class Surrounding(Protocol):
    """One thing that episodes need around them. Used by many episodes at the same time."""

    name: str
    """In messages, for example "the door of the gateway"."""

    def around(self, stage: Stage) -> AbstractAsyncContextManager[Stage]:
        """Entered, it gives the stage with what it adds. Whatever it raises fails the episode,
        except a ConfigError, which no further episode would be spared."""
        ...


@contextlib.asynccontextmanager
async def surrounded(stage: Stage, surroundings: Sequence[Surrounding]) -> AsyncIterator[Stage]:
    """Enter all, in order, before the deadline; leave them in reverse, each for a bounded time.

    Raises SurroundingError where one cannot be entered in time; those before it are left. One that
    cannot be left is named in the log: what came of the episode stands.
    """
    async with contextlib.AsyncExitStack() as stack:
        for surrounding in surroundings:
            context = surrounding.around(stage)
            with boundary(SurroundingError, f"{surrounding.name} could not be entered"):
                stage = await _entered(context, surrounding.name, stage)
            stack.push_async_exit(_leaving(context, surrounding.name))
        yield stage


async def _entered(context: AbstractAsyncContextManager[Stage], name: str, stage: Stage) -> Stage:
    try:
        async with asyncio.timeout(stage.seconds_left) as limit:
            return await context.__aenter__()
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise SurroundingError(
            f"{name} was not there within the {stage.seconds:g} s of the episode "
            "(rollout.episode_timeout_seconds); see whether what serves it runs, or raise the limit"
        ) from error


def _leaving(context: AbstractAsyncContextManager[Stage], name: str) -> _Leave:
    """What is called when the stage is left."""

    async def leave(
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with boundary(SurroundingError, f"{name} could not be left"):
                async with asyncio.timeout(_LEAVE_SECONDS):
                    await context.__aexit__(kind, error, traceback)
        except EpisodeError as problem:
            logger.warning("surrounding not left: %s", problem)

    return leave


class GatewayDoor:
    """The episode's door in the gateway; with it end its keys and whatever is under way."""

    name = "the door of the gateway"

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @contextlib.asynccontextmanager
    async def around(self, stage: Stage) -> AsyncIterator[Stage]:
        door = self._gateway.open(
            stage.chat, seconds=stage.seconds_left, is_validation=stage.workflow_task.is_validation
        )
        try:
            yield replace(stage, door=door)
        finally:
            await door.close()
