"""How many calls run at once: fewer after the server refused one for load, more again later.

Additive increase, multiplicative decrease, the rule by which callers who cannot see each other
share a server fairly: D.-M. Chiu and R. Jain, "Analysis of the Increase and Decrease Algorithms
for Congestion Avoidance in Computer Networks", Computer Networks and ISDN Systems 17, 1989. As in
TCP (RFC 5681, section 3.1), calls that are under way together grow the bound by one in all, and
halve it once.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator

logger = logging.getLogger(__name__)


class CallLimiter:
    """Slots for calls, given out in the order they were asked for."""

    def __init__(self, max_parallel: int) -> None:
        self._max_parallel = max_parallel
        self._bound = float(max_parallel)
        """At least 1; its whole part counts."""
        self._num_running = 0
        self._num_reductions = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        """Turns of callers in order; those who left are cancelled."""

    @property
    def bound(self) -> int:
        """How many calls may run at once now."""
        return int(self._bound)

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """Wait for a slot and hold it; gives what `reduce` wants to know."""
        await self._enter()
        try:
            yield self._num_reductions
        finally:
            self._leave()

    def grow(self) -> None:
        """A call was answered."""
        self._bound = min(self._max_parallel, self._bound + 1 / self._bound)
        self._admit()

    def reduce(self, began_at: int) -> None:
        """A call whose slot gave `began_at` was refused for load.

        Calls that ran together are refused together: only the first of them counts.
        """
        if began_at != self._num_reductions:
            return
        self._num_reductions += 1
        self._bound = max(1.0, self._bound / 2)
        level = logging.WARNING if self._num_reductions == 1 else logging.DEBUG
        logger.log(
            level,
            "llm calls reduced max_parallel=%d now=%d: the server refuses more at once",
            self._max_parallel,
            self.bound,
        )

    async def _enter(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the slot came together with the cancellation
                self._leave()
            raise

    def _leave(self) -> None:
        self._num_running -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._num_running < self.bound:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self._num_running += 1
                turn.set_result(None)
