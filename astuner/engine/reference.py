"""The weights that a run started from, frozen, as an engine for agents that are not trained.

Owns when they are first needed and that they serve as long as the policy's engine does. Where they
come from is given.
"""

import contextlib
import copy
from collections.abc import AsyncIterator, Callable, Sequence

from transformers import PreTrainedModel

from astuner.engine.continuous import ContinuousBatchingEngine
from astuner.engine.protocol import Observe, Sampling
from astuner.errors import EngineError
from astuner.types import Completion


class ReferenceEngine:
    """Samples from frozen weights while `serving`; nothing is loaded before the first call."""

    weight_version = 0

    def __init__(
        self,
        make_engine: Callable[[PreTrainedModel], ContinuousBatchingEngine],
        find_model: Callable[[], PreTrainedModel],
        *,
        on_away: Callable[[int], None],
    ) -> None:
        """`on_away` is told how many calls wait here, whenever that changes.

        `find_model` raises ConfigError where the weights are not to be had any more.
        """
        self._make_engine = make_engine
        self._find_model = find_model
        self._on_away = on_away
        self._engine: ContinuousBatchingEngine | None = None
        self._open: contextlib.AsyncExitStack | None = None
        self._is_serving = False
        self._num_away = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as self._open:
            try:
                yield
            finally:
                self._is_serving = False

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        caller: str,
        index: int,
        observe: Observe | None = None,
    ) -> Completion:
        engine = await self._begin()
        self._count(1)
        try:
            return await engine.generate(
                prompt_ids, sampling, caller=caller, index=index, observe=observe
            )
        finally:
            self._count(-1)

    async def _begin(self) -> ContinuousBatchingEngine:
        if self._open is None:
            raise EngineError("the reference does not serve; call it within a rollout")
        if self._engine is None:
            self._engine = self._make_engine(self._find_model())
        if not self._is_serving:
            # Set first: entering has no await before it serves, but the next call may come at once.
            self._is_serving = True
            await self._open.enter_async_context(self._engine.serving())
        return self._engine

    def _count(self, change: int) -> None:
        self._num_away += change
        self._on_away(self._num_away)


class PolicyCallers:
    """Whom the policy's engine waits for: the episodes in flight, less those at the reference."""

    def __init__(self, expect: Callable[[int], None]) -> None:
        self._expect = expect
        self._num_in_flight = 0
        self._num_away = 0

    def set_in_flight(self, num_episodes: int) -> None:
        self._num_in_flight = num_episodes
        self._tell()

    def set_away(self, num_calls: int) -> None:
        self._num_away = num_calls
        self._tell()

    def _tell(self) -> None:
        self._expect(max(0, self._num_in_flight - self._num_away))


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The weights as they are now, an adapter's included."""
    return copy.deepcopy(model).eval().requires_grad_(False)
