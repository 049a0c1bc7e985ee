"""Gets a request answered: under the bound on calls and the budget, and again where it helps."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from astuner.errors import LlmError
from astuner.llm.budget import Budget
from astuner.llm.endpoint import Answer, ModelEndpoint, Question, Setback
from astuner.llm.limiter import CallLimiter
from astuner.llm.retries import Backoff

logger = logging.getLogger(__name__)

Sleep = Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class Progress:
    """How far one question has come; changed while its requests are made."""

    ends_at: float
    """In the time of the event loop."""
    num_tries: int = 0
    last: Setback | None = None

    def seconds_left(self) -> float:
        return max(0.0, self.ends_at - asyncio.get_running_loop().time())

    def __str__(self) -> str:
        tries = "1 try" if self.num_tries == 1 else f"{self.num_tries} tries"
        return tries if self.last is None else f"{tries} (the last failure: {self.last.found})"


class PatientEndpoint:
    """An endpoint that is not given up at its first setback."""

    def __init__(
        self,
        endpoint: ModelEndpoint,
        *,
        limiter: CallLimiter,
        budget: Budget,
        backoff: Backoff,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Closes the endpoint when it is closed."""
        self.name = endpoint.name
        self.identity = endpoint.identity
        self.budget = budget
        self._endpoint = endpoint
        self._limiter = limiter
        self._backoff = backoff
        self._sleep = sleep
        self._is_closed = False

    async def answer(self, question: Question, progress: Progress) -> Answer:
        """Ask until there is an answer. Raises the errors of `LanguageModel.ask`."""
        for num_tries in range(1, self._backoff.max_tries + 1):
            outcome = await self._ask_once(question, progress)
            if isinstance(outcome, Answer):
                return outcome
            progress.last = outcome
            if num_tries < self._backoff.max_tries:
                await self._wait(outcome, num_tries, progress)
        raise LlmError(
            f"{self.name}: no answer in {progress}; is the server up, and can it take so many "
            "requests at once (astuner.llm.max_parallel)?"
        )

    async def close(self) -> None:
        """Requests under way end with an error."""
        self._is_closed = True
        await self._endpoint.close()

    def check_open(self) -> None:
        """Raises LlmError after `close`."""
        if self._is_closed:
            raise LlmError(f"{self.name} is asked after it was closed; open it anew")

    async def _ask_once(self, question: Question, progress: Progress) -> Answer | Setback:
        async with self._limiter.slot() as began_at:
            self.check_open()
            self.budget.take_call()
            progress.num_tries += 1
            outcome = await self._endpoint.answer(question, seconds=progress.seconds_left())
            if isinstance(outcome, Answer):
                self._limiter.grow()
                self.budget.take_tokens(outcome, of=self.name)
            elif outcome.is_overload:
                self._limiter.reduce(began_at)  # before the slot lets in the next
        return outcome

    async def _wait(self, setback: Setback, num_tries: int, progress: Progress) -> None:
        """Outside of the slot, so that others may ask meanwhile."""
        seconds = self._backoff.wait_seconds(num_tries, setback.retry_after_seconds)
        if seconds >= progress.seconds_left():
            raise LlmError(
                f"{self.name}: no answer in {progress}; the next could only be made in "
                f"{seconds:.0f} s, when astuner.llm.timeout_seconds is over; raise it, or ask less "
                "at once (astuner.llm.max_parallel)"
            )
        logger.debug("llm retry reason=%s wait_seconds=%.1f", setback.reason, seconds)
        self.budget.count(num_retries=1)
        await self._sleep(seconds)
