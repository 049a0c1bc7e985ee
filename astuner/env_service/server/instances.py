"""Who lives: makes instances, finds them, and lets go of those that nobody asks about any more.

What became of one that has gone is remembered, so that whoever still asks is told.
"""

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from astuner.env_service.server.instance import Creation, LiveInstance, Turn, unraised
from astuner.env_service.server.pool import EnvironmentPool
from astuner.env_service.server.world import ServerSettings
from astuner.serving.json_text import JSON
from astuner.serving.refusal import Refusal

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_GONE = 20_000
"""Of which it is remembered what became of them."""
_RETRY_AFTER_SECONDS = 1


class Instances:
    """Those of one server, in one event loop."""

    def __init__(
        self,
        pools: Mapping[str, EnvironmentPool],
        settings: ServerSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` is what times to live are measured by, in seconds."""
        self._pools = pools
        self._settings = settings
        self._clock = clock
        self._live: dict[str, LiveInstance] = {}
        self._creations: dict[str, asyncio.Task[JSON]] = {}
        """Of those that live, done or under way."""
        self._heard_at: dict[str, float] = {}
        self._gone: OrderedDict[str, Refusal] = OrderedDict()
        """What whoever asks for it is told, by id; the newest last."""
        self._endings: set[asyncio.Task[None]] = set()

    @property
    def num_held(self) -> int:
        """Places taken: by those that live, and those whose processes have not ended yet."""
        return len(self._live) + len(self._endings)

    async def task_ids(self, env_type: str, split: str) -> Sequence[str]:
        return await self._pool(env_type).task_ids(split)

    async def create(self, asked: Creation, *, instance_id: str | None) -> JSON:
        """Asked again with the same id, it is the same instance and the same answer."""
        pool = self._pool(asked.env_type)
        name = instance_id or uuid.uuid4().hex
        if name in self._live:
            if self._live[name].asked != asked:
                raise Refusal(
                    409,
                    f"instance {name} lives, and was made for another task, seed or options; name "
                    "another instance_id",
                    code="instance_exists",
                    param="instance_id",
                )
            self._heard_at[name] = self._clock()
        elif name in self._gone:
            raise unraised(self._gone[name])
        else:
            self._begin(name, asked, pool)
        return await asyncio.shield(self._creations[name])

    def turn(
        self, instance_id: str, message: Mapping[str, Any], *, index: int | None, key: str | None
    ) -> Turn:
        """See `LiveInstance.turn`; its answer is to be awaited by `answer`."""
        return self._ready(instance_id).turn(message, index=index, key=key)

    async def answer(self, instance_id: str, turn: Turn) -> JSON:
        return await self._bearing(instance_id, asyncio.shield(turn.answer))

    async def evaluate(self, instance_id: str, *, sparse: bool) -> float:
        live = self._ready(instance_id)
        # As a task, so that a client that goes leaves no half an exchange behind.
        evaluation = asyncio.create_task(live.evaluate(sparse=sparse))
        evaluation.add_done_callback(_listened)
        return await self._bearing(instance_id, asyncio.shield(evaluation))

    def described(self, instance_id: str) -> JSON:
        return self._ready(instance_id).described()

    async def release(self, instance_id: str) -> None:
        """Twice is harmless. Raises Refusal for one that was never there."""
        if instance_id in self._gone:
            return
        live = self._found(instance_id)
        await asyncio.wait({self._creations[instance_id]})
        if self._live.get(instance_id) is live:
            reason = f"instance {instance_id} was released by its client; create another"
            refusal = Refusal(410, reason, code="instance_released")
            await asyncio.shield(self._let_go(live, refusal, live.close))

    def hear(self, instance_ids: Iterable[str]) -> JSON:
        """Those of which a client says that it still needs them: which live, and why others do
        not."""
        alive, gone = [], {}
        for name in instance_ids:
            try:
                self._found(name)
            except Refusal as refusal:
                gone[name] = refusal
            else:
                alive.append(name)
        return {"alive": alive, "gone": gone}

    def expire(self) -> None:
        """Release those of which nothing was heard for their time to live."""
        now = self._clock()
        for name, live in list(self._live.items()):
            if live.is_busy:
                self._heard_at[name] = now
            elif now - self._heard_at[name] > live.asked.ttl_seconds:
                reason = (
                    f"instance {name} was released since nothing was heard of it for "
                    f"{live.asked.ttl_seconds:g} s; send /heartbeat, or allow more by ttl_seconds"
                )
                logger.warning("instance expired id=%s task=%s", name, live.asked.task_id)
                self._let_go(live, Refusal(410, reason, code="instance_expired"), live.close)

    async def close(self) -> None:
        """End all that live."""
        for creation in self._creations.values():
            creation.cancel()
        reason = Refusal(410, "the environment server has ended", code="instance_released")
        for live in list(self._live.values()):
            self._let_go(live, reason, live.end)
        if self._endings:
            await asyncio.wait(self._endings)

    def _begin(self, name: str, asked: Creation, pool: EnvironmentPool) -> None:
        if self.num_held >= self._settings.capacity:
            raise Refusal(
                503,
                f"all {self._settings.capacity} places for instances are taken; ask again in "
                f"{_RETRY_AFTER_SECONDS} s, or start the server with a larger --capacity",
                code="at_capacity",
                headers={"retry-after": str(_RETRY_AFTER_SECONDS)},
            )
        live = LiveInstance(name, asked, self._settings)
        self._live[name] = live
        self._heard_at[name] = self._clock()
        creation = asyncio.create_task(self._created(live, pool))
        creation.add_done_callback(_listened)
        self._creations[name] = creation

    async def _created(self, live: LiveInstance, pool: EnvironmentPool) -> JSON:
        try:
            return await live.begin(pool)
        except Refusal as refusal:
            # Not remembered: under this id it may be tried again.
            self._forget(live, live.end(refusal))
            raise

    async def _bearing(self, instance_id: str, answer: Awaitable[T]) -> T:
        """What comes of it; a failure of the environment is the end of the instance."""
        try:
            return await answer
        except Refusal as refusal:
            live = self._live.get(instance_id)
            if refusal.status >= 500 and live is not None:
                logger.warning("instance failed id=%s reason=%s", instance_id, refusal.message)
                self._let_go(live, refusal, live.end)
            raise
        finally:
            if instance_id in self._live:
                self._heard_at[instance_id] = self._clock()

    def _let_go(
        self,
        live: LiveInstance,
        reason: Refusal,
        end: Callable[[Refusal], Coroutine[Any, Any, None]],
    ) -> asyncio.Task[None]:
        """Free its place once `end` has ended it."""
        self._gone[live.instance_id] = unraised(reason)
        while len(self._gone) > _MAX_GONE:
            self._gone.popitem(last=False)
        return self._forget(live, end(reason))

    def _forget(self, live: LiveInstance, end: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        for of_live in (self._live, self._creations, self._heard_at):
            of_live.pop(live.instance_id, None)
        ending = asyncio.create_task(end)
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        return ending

    def _found(self, instance_id: str) -> LiveInstance:
        """Of whom something was heard by that, though it may still be in the making."""
        if instance_id in self._live:
            self._heard_at[instance_id] = self._clock()
            return self._live[instance_id]
        if instance_id in self._gone:
            raise unraised(self._gone[instance_id])
        raise Refusal(
            404,
            f"there is no instance {instance_id[:100]!r} here; it is that of another server, or of "
            "one that was started again since; create one",
            code="unknown_instance",
            param="instance_id",
        )

    def _ready(self, instance_id: str) -> LiveInstance:
        live = self._found(instance_id)
        if self._creations[instance_id].done():
            return live
        raise Refusal(
            409,
            f"instance {instance_id} is still being made; wait for the answer to /create",
            code="instance_not_ready",
            param="instance_id",
        )

    def _pool(self, env_type: str) -> EnvironmentPool:
        if env_type in self._pools:
            return self._pools[env_type]
        raise Refusal(
            404,
            f"env_type: there is no environment {env_type[:100]!r} here; this server has "
            f"{', '.join(self._pools)}",
            code="unknown_environment",
            param="env_type",
        )


def _listened(task: asyncio.Task[Any]) -> None:
    """Whoever asks is told of a failure; perhaps nobody does any more."""
    if not task.cancelled():
        task.exception()
