"""How one model wants to be told what a request asks for, learnt from what it refuses.

OpenAI's newer models (o1 and after, gpt-5) refuse `max_tokens`, want `max_completion_tokens`, and
sample at a temperature of 1 only; most other servers know nothing but `max_tokens`.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from openai import BadRequestError

logger = logging.getLogger(__name__)

Answered = TypeVar("Answered")
THEIR_TEMPERATURE = 1.0
"""Of models that take no other."""


class Dialect:
    """Of one model of one server. What is learnt holds for all later requests."""

    def __init__(self, place: str, *, tell: Callable[[str], None] = logger.warning) -> None:
        """`place` names the model; `tell` is told each thing that is learnt, once."""
        self._place, self._tell = place, tell
        self._wants_completion_limit = False
        self._is_temperature_fixed = False

    async def ask(
        self, create: Callable[..., Awaitable[Answered]], asked: Mapping[str, Any]
    ) -> Answered:
        """`create(**asked)`, with `max_tokens` and `temperature` as the model takes them.

        At most three requests, as there are two things to learn. Raises what `create` raises.
        """
        from openai import BadRequestError

        while True:
            sent = self._worded(asked)
            try:
                return await create(**sent)
            except BadRequestError as error:
                self._learn(error, sent)
                if self._worded(asked) == sent:
                    raise

    def sampled_temperature(self, asked: float) -> float:
        """At which the model sampled what it was asked at this temperature."""
        return THEIR_TEMPERATURE if self._is_temperature_fixed else asked

    def _worded(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        sent = dict(asked)
        if self._wants_completion_limit and "max_tokens" in sent:
            sent["max_completion_tokens"] = sent.pop("max_tokens")
        if self._is_temperature_fixed:
            sent.pop("temperature", None)
        return sent

    def _learn(self, error: "BadRequestError", sent: Mapping[str, Any]) -> None:
        """Codes differ between servers, and the sentence does not."""
        said = str(error).casefold()
        if "max_tokens" in sent and "max_completion_tokens" in said:
            if not self._wants_completion_limit:
                self._tell(f"max_tokens refused, max_completion_tokens sent model={self._place}")
            self._wants_completion_limit = True
        elif "temperature" in sent and "'temperature'" in said and "unsupported" in said:
            if not self._is_temperature_fixed:
                self._tell(
                    f"temperature {sent['temperature']} refused, the model samples at its own, "
                    f"{THEIR_TEMPERATURE:g}, model={self._place}"
                )
            self._is_temperature_fixed = True
