"""A model behind an OpenAI-compatible server, asked through the openai package."""

import json
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError

from astuner.errors import ConfigError, LlmError
from astuner.llm.dialect import Dialect
from astuner.llm.endpoint import Answer, Question, Setback
from astuner.llm.quoting import short
from astuner.llm.retries import status_setback
from astuner.llm.server import LlmServer, describe_no_completion

if TYPE_CHECKING:
    from openai import APIStatusError

_CONNECT_SECONDS = 10.0
"""A connection that takes longer is tried anew. The answer itself has all the time that is left: a
model that thinks cannot be told from one that hangs, and asking anew would pay for it twice."""


class _CompletionMessage(BaseModel):
    content: str | None = None


class _CompletionChoice(BaseModel):
    message: _CompletionMessage
    finish_reason: str | None = None


class _CompletionTokens(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class _ChatCompletion(BaseModel):
    """What is read of a completion; servers add much to it and leave much out."""

    choices: list[_CompletionChoice] = Field(min_length=1)
    usage: _CompletionTokens | None = None


class OpenAIEndpoint:
    """One model of one server."""

    def __init__(self, server: LlmServer, model_name: str) -> None:
        """Raises ConfigError where the package openai is missing."""
        self.name = f"model {model_name!r} at {server.base_url}"
        self.identity = json.dumps([server.base_url.rstrip("/"), model_name])
        self._server = server
        self._model_name = model_name
        self._client = server.open_client(max_retries=0)
        self._dialect = Dialect(self.name)

    async def answer(self, question: Question, *, seconds: float) -> Answer | Setback:
        """Ask once; see `ModelEndpoint`."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError, Timeout

        asked = {
            "model": self._model_name,
            "messages": [*question.messages],
            "timeout": Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS)),
            **_sampling(question),
        }
        try:
            requests = self._client.chat.completions.with_raw_response
            response = await self._dialect.ask(requests.create, asked)
        except APIStatusError as error:
            return self._refused(error)
        except APITimeoutError:
            return Setback(reason="timeout", found="the server did not answer in time")
        except APIConnectionError as error:
            cause = error.__cause__ or error  # the error itself says no more than its class
            return Setback(reason="connection", found=f"{type(cause).__name__}: {short(cause)}")
        return self._read(response.text)

    async def close(self) -> None:
        await self._client.close()

    def _read(self, body: str) -> Answer:
        try:
            completion = _ChatCompletion.model_validate_json(body)
        except ValidationError as error:
            found = describe_no_completion(self._server.without_keys(body))
            raise LlmError(f"{self.name}: {found}") from error
        choice, tokens = completion.choices[0], completion.usage
        return Answer(
            text=choice.message.content or "",
            is_cut=choice.finish_reason == "length",
            num_input_tokens=tokens.prompt_tokens if tokens else None,
            num_output_tokens=tokens.completion_tokens if tokens else None,
        )

    def _refused(self, error: "APIStatusError") -> Setback:
        status = error.status_code
        if status == 401:
            raise self._refused_key() from error
        said = short(self._server.without_keys(error.response.text))
        # OpenAI's word for an account without money, under the status of too many requests.
        is_for_good = error.code == "insufficient_quota"
        setback = status_setback(status, error.response.headers, f"{status}: {said}")
        if setback is None or is_for_good:
            advice = "; check astuner.llm.base_url and the name of the model"
            message = f"{self.name}: refused with {status}: {said}"
            raise LlmError(message + advice if status == 404 else message) from error
        return setback

    def _refused_key(self) -> ConfigError:
        variable = self._server.api_key_env
        found = f"the key in {variable}" if self._server.keys else f"no key, as {variable} is empty"
        return ConfigError(
            f"{self.name}: the server refused {found} (401); set the environment variable "
            f"{variable} to a valid key, or name another one in astuner.llm.api_key_env"
        )


def _sampling(question: Question) -> dict[str, Any]:
    asked = {
        "temperature": question.temperature,
        "max_tokens": question.max_new_tokens,
        "seed": question.seed,
    }
    return {name: value for name, value in asked.items() if value is not None}
