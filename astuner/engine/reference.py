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
    ) -> None:
        """`find_model` raises ConfigError where the weights are not to be had any more."""
        self._make_engine = make_engine
        self._find_model = find_model
        self._engine: ContinuousBatchingEngine | None = None
        self._open: contextlib.AsyncExitStack | None = None
        self._is_serving = False

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
        return await engine.generate(
            prompt_ids, sampling, caller=caller, index=index, observe=observe
        )

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


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The weights as they are now, an adapter's included."""
    return copy.deepcopy(model).eval().requires_grad_(False)
