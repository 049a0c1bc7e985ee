"""What asking has cost so far, and the limit at which it ends."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace

from astuner.errors import ConfigError, LlmBudgetError
from astuner.llm.endpoint import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmUsage:
    """What was asked up to some moment."""

    num_calls: int = 0
    """Requests that were sent, further tries and second questions included."""
    num_input_tokens: int = 0
    """Of answered requests, as the server counts; servers that do not count add none."""
    num_output_tokens: int = 0
    num_cache_hits: int = 0
    """Questions answered from disk."""
    num_retries: int = 0
    """Requests that were sent again after a passing error."""
    num_errors: int = 0
    """Questions that got no answer."""

    @property
    def num_tokens(self) -> int:
        return self.num_input_tokens + self.num_output_tokens

    def plus(self, **more: int) -> "LlmUsage":
        """With so much more in these fields."""
        return replace(self, **{name: getattr(self, name) + more[name] for name in more})

    def since(self, earlier: "LlmUsage") -> "LlmUsage":
        """What was asked behind an earlier moment."""
        return self.plus(**{name: -number for name, number in asdict(earlier).items()})


_of_process = LlmUsage()
"""Of all models together, closed ones too; changed by `Budget.count`, and `count_of_another`."""
_lock = threading.Lock()


def usage_of_process() -> LlmUsage:
    """What all models of this process asked so far, whoever opened them."""
    return _of_process


def count_of_another(usage: LlmUsage) -> None:
    """Add what another process asked for this one."""
    global _of_process
    with _lock:
        _of_process = _of_process.plus(**asdict(usage))


class UsageTally:
    """What was asked inside of `usage_tallied`, so far."""

    def __init__(self) -> None:
        self.usage = LlmUsage()


_tallies: ContextVar[tuple[UsageTally, ...]] = ContextVar("tallies", default=())


@contextmanager
def usage_tallied() -> Iterator[UsageTally]:
    """Counts what this task and those that it starts inside ask, of whichever model.

    Of equal questions that are asked together the first one's task counts the request.
    """
    tally = UsageTally()
    token = _tallies.set((*_tallies.get(), tally))
    try:
        yield tally
    finally:
        _tallies.reset(token)


class Budget:
    """Counts, and refuses calls beyond its limits. None: no limit.

    `max_calls` is kept exactly. Tokens are known once an answer is there, so calls that are under
    way together when `max_tokens` is reached are still finished.
    """

    def __init__(self, *, max_calls: int | None = None, max_tokens: int | None = None) -> None:
        self._max_calls = max_calls
        self._max_tokens = max_tokens
        self.usage = LlmUsage()

    def take_call(self) -> None:
        """To be called before each request. Raises LlmBudgetError where none is left."""
        usage = self.usage
        if self._max_calls is not None and usage.num_calls >= self._max_calls:
            raise self._used_up("max_calls", self._max_calls)
        if self._max_tokens is not None and usage.num_tokens >= self._max_tokens:
            raise self._used_up("max_tokens", self._max_tokens)
        self.count(num_calls=1)

    def take_tokens(self, answer: Answer, *, of: str) -> None:
        """Raises ConfigError where tokens are limited and the server does not count them."""
        if answer.num_input_tokens is None or answer.num_output_tokens is None:
            if self._max_tokens is not None:
                raise ConfigError(
                    f"astuner.llm.max_tokens = {self._max_tokens} cannot be kept: {of} does not "
                    "say how many tokens its answers take; set it to null, and astuner.llm."
                    "max_calls instead"
                )
            return
        self.count(
            num_input_tokens=answer.num_input_tokens, num_output_tokens=answer.num_output_tokens
        )

    def count(self, **more: int) -> None:
        """Add to fields of the usage."""
        global _of_process
        self.usage = self.usage.plus(**more)
        for tally in _tallies.get():
            tally.usage = tally.usage.plus(**more)
        with _lock:
            _of_process = _of_process.plus(**more)

    def _used_up(self, key: str, limit: int) -> LlmBudgetError:
        usage = self.usage
        return LlmBudgetError(
            f"astuner.llm.{key} = {limit} is used up: {usage.num_calls} calls with "
            f"{usage.num_input_tokens} tokens in and {usage.num_output_tokens} out were made; "
            "raise the limit or set it to null; with astuner.llm.cache_dir, questions that were "
            "answered before cost nothing"
        )
