"""What an episode needs around it: entered before the workflow, left after it whatever happens.

The door to the gateway is one; an environment instance or a sandbox is another. Each takes the
stage as it is and gives it with what it adds, so that the next one may build on it. Entering counts
towards the episode's deadline. Owns neither gateway nor workflow.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol

from astuner.errors import EpisodeError, SurroundingError, boundary
from astuner.gateway.door import Door
from astuner.gateway.gateway import Gateway
from astuner.inference.request import Chat
from astuner.rollout.bounded import bounded
from astuner.types import WorkflowOutput, WorkflowTask

logger = logging.getLogger(__name__)

_LEAVE_SECONDS = 10.0
"""What one surrounding may take to be left; the episode's own time may be over by then."""


OnOutput = Callable[[WorkflowOutput], Coroutine[Any, Any, WorkflowOutput]]


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
    on_output: tuple[OnOutput, ...] = ()
    """Called in turn with what the workflow returned, while all still stands; each gives it with
    what it adds. What they raise fails the episode."""

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())


class Surrounding(Protocol):
    """One thing that episodes need around them. Used by many episodes at the same time."""

    name: str
    """In messages, for example "the door of the gateway"."""

    def around(self, stage: Stage) -> AbstractAsyncContextManager[Stage]:
        """Entered, it gives the stage with what it adds. Whatever it raises fails the episode,
        except a ConfigError, which no further episode would be spared.

        Made, entered and left in one task, which is not the workflow's: what is to reach the
        workflow stands in the stage, not in context variables.
        """
        ...


@contextlib.asynccontextmanager
async def surrounded(stage: Stage, surroundings: Sequence[Surrounding]) -> AsyncIterator[Stage]:
    """Enter all, in order, before the deadline; leave them in reverse, each for a bounded time.

    Raises SurroundingError where one cannot be entered in time; those before it are left. One that
    cannot be left is named in the log: what came of the episode stands.
    """
    async with contextlib.AsyncExitStack() as stack:
        for surrounding in surroundings:
            stay = _Stay(surrounding)
            given = await stay.enter(stage)
            stack.push_async_exit(stay.leave)
            if not isinstance(given, Stage):
                raise SurroundingError(
                    f"{surrounding.name} gave {type(given).__name__} when it was entered; it must "
                    "give the stage that it took, or dataclasses.replace(stage, ...) of it"
                )
            stage = given
        yield stage


class _Stay:
    """One surrounding of one episode, in a task of its own from its entry until it is left.

    One task, since cancel scopes and context variables bind the two ends; its own, since user code
    that is cancelled, or swallows it, then does no more than to end or outlive that task.
    """

    def __init__(self, surrounding: Surrounding) -> None:
        self._surrounding = surrounding
        self._name = surrounding.name
        self._given: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._is_over = asyncio.Event()
        self._error: BaseException | None = None
        """What ended the episode, for the surrounding to see."""

    async def enter(self, stage: Stage) -> Any:
        """What the surrounding gives. One that is late is left as soon as it is there."""
        try:
            with boundary(SurroundingError, f"{self._name} could not be entered"):
                return await bounded(
                    self._begin(stage),
                    seconds=stage.seconds_left,
                    error=SurroundingError(
                        f"{self._name} was not there within the {stage.seconds:g} s of the episode "
                        "(rollout.episode_timeout_seconds); see whether what serves it runs, or "
                        "raise the limit"
                    ),
                )
        except BaseException:
            self._is_over.set()
            raise

    async def leave(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._error = error
        self._is_over.set()
        try:
            with boundary(SurroundingError, f"{self._name} could not be left"):
                await bounded(
                    self._end(),
                    seconds=_LEAVE_SECONDS,
                    error=SurroundingError(
                        f"{self._name} could not be left within {_LEAVE_SECONDS:g} s"
                    ),
                )
        except EpisodeError as problem:
            logger.warning("surrounding not left: %s", problem)

    async def _begin(self, stage: Stage) -> Any:
        self._task = asyncio.create_task(self._live(stage))
        try:
            await asyncio.wait({self._task, self._given}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._is_over.set()
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            raise
        return self._given.result() if self._given.done() else await self._task

    async def _end(self) -> None:
        await self._task

    async def _live(self, stage: Stage) -> None:
        context = self._surrounding.around(stage)
        self._given.set_result(await context.__aenter__())
        try:
            await self._is_over.wait()
        except asyncio.CancelledError as error:  # by a task group of the surrounding, for example
            self._error = error
        error = self._error
        traceback = None if error is None else error.__traceback__
        await context.__aexit__(None if error is None else type(error), error, traceback)


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
