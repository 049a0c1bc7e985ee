"""The engine as a process of agents knows it: each call goes to the command's process, and back."""

import asyncio
import itertools
from collections.abc import Callable, Sequence

from astuner.backbone.local.agents.messages import (
    AskEngine,
    EngineAnswer,
    Enough,
    FromProcess,
    GiveUp,
    Sampled,
)
from astuner.engine.protocol import Observe, Sampling
from astuner.types import Completion


class OpenCalls:
    """The calls of this process that wait for their answers, of whichever engine."""

    def __init__(self, send: Callable[[FromProcess], None]) -> None:
        self._send = send
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Completion]] = {}
        self._observers: dict[int, Observe] = {}

    async def ask(
        self,
        engine: str,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        caller: str,
        index: int,
        observe: Observe | None,
    ) -> Completion:
        """Raises what the engine raises."""
        call = next(self._numbers)
        answer = self._answers[call] = asyncio.get_running_loop().create_future()
        if observe is not None:
            self._observers[call] = observe
        self._send(
            AskEngine(
                call=call,
                engine=engine,
                prompt_ids=tuple(prompt_ids),
                sampling=sampling,
                caller=caller,
                index=index,
                is_observed=observe is not None,
            )
        )
        try:
            return await answer
        finally:
            del self._answers[call]
            self._observers.pop(call, None)
            if answer.cancelled():
                self._send(GiveUp(call))

    def take(self, message: EngineAnswer | Sampled) -> None:
        """What the command's process says of a call, which may be given up by now."""
        answer = self._answers.get(message.call)
        if answer is None or answer.done():
            return
        if isinstance(message, Sampled):
            observe = self._observers.get(message.call)
            if observe is not None and observe(message.ids):
                del self._observers[message.call]
                self._send(Enough(message.call))
        elif isinstance(message.completion, Completion):
            answer.set_result(message.completion)
        else:
            answer.set_exception(message.completion)


class AskedEngine:
    """One engine of the command's process, by its name."""

    def __init__(self, name: str, calls: OpenCalls) -> None:
        self._name, self._calls = name, calls
        self._weight_version = 0

    @property
    def weight_version(self) -> int:
        """Of its newest answer."""
        return self._weight_version

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        caller: str,
        index: int,
        observe: Observe | None = None,
    ) -> Completion:
        completion = await self._calls.ask(
            self._name, prompt_ids, sampling, caller=caller, index=index, observe=observe
        )
        self._weight_version = completion.weight_version
        return completion
