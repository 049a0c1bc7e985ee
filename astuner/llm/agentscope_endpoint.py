"""A chat model object of AgentScope 1.x, as agents use it."""

import sys
from collections.abc import AsyncIterator
from typing import Any

from astuner.errors import LlmError, boundary
from astuner.llm.endpoint import Answer, Question, Setback
from astuner.llm.quoting import short
from astuner.llm.retries import status_setback


class AgentScopeEndpoint:
    """Asks `await model(messages, tools=None)`, with the sampling that the object was made with."""

    identity: str | None = None
    """Not known: what the object samples with is hidden in it."""

    def __init__(self, model: Any) -> None:
        self.name = f"AgentScope model {getattr(model, 'model_name', type(model).__name__)!r}"
        self._model = model

    async def answer(self, question: Question, *, seconds: float) -> Answer | Setback:
        """Ask once; see `ModelEndpoint`. `seconds` is kept by whoever asks."""
        with boundary(LlmError, f"{self.name} raised"):
            try:
                response = await self._ask(question)
            except (ConnectionError, TimeoutError, *_sdk_errors()) as error:
                if (setback := _setback(error)) is None:
                    raise
                return setback
        if not hasattr(response, "content"):
            raise LlmError(f"{self.name} returned {type(response).__name__}, not a ChatResponse")
        usage = response.usage
        return Answer(
            text="".join(block["text"] for block in response.content if block["type"] == "text"),
            is_cut=False,
            num_input_tokens=usage.input_tokens if usage else None,
            num_output_tokens=usage.output_tokens if usage else None,
        )

    async def close(self) -> None:
        """The object belongs to whoever made it."""

    async def _ask(self, question: Question) -> Any:
        response = await self._model([dict(message) for message in question.messages], tools=None)
        if not isinstance(response, AsyncIterator):
            return response
        parts = [part async for part in response]
        return parts[-1] if parts else None  # each part of a stream holds all of it so far


def _sdk_errors() -> tuple[type[Exception], ...]:
    """Errors of the SDKs below AgentScope's models; whatever raised one has imported it."""
    return tuple(
        getattr(sys.modules[package], name)
        for package in ("openai", "anthropic")
        if package in sys.modules
        for name in ("APIConnectionError", "APIStatusError")
    )


def _setback(error: Exception) -> Setback | None:
    """None where asking again would not help."""
    found = f"{type(error).__name__}: {short(error)}"
    response = getattr(error, "response", None)  # what the SDKs' errors of a status have
    if response is None:
        return Setback(reason="connection", found=found)
    return status_setback(response.status_code, response.headers, found)
