"""One client for everything that asks a model which is not tuned.

Owns what a question is beyond its requests: the cache, equal questions, the deadline and the check
of the answer.
"""

import asyncio
import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self, overload

from pydantic import BaseModel

from astuner.errors import AstunerError, LlmAnswerError, LlmError
from astuner.llm.answer_cache import AnswerCache, cache_key
from astuner.llm.answer_schema import (
    Form,
    Messages,
    ask_again,
    ask_for,
    find_problem,
    read_form,
)
from astuner.llm.budget import LlmUsage
from astuner.llm.endpoint import Answer, Question
from astuner.llm.patience import PatientEndpoint, Progress
from astuner.llm.quoting import short
from astuner.llm.single_flight import SingleFlight

logger = logging.getLogger(__name__)

Schema = type[BaseModel] | None


class LanguageModel:
    """Asks one model. Many may ask at the same time, from one event loop."""

    def __init__(
        self,
        endpoint: PatientEndpoint,
        *,
        cache: AnswerCache | None,
        timeout_seconds: float,
        max_new_tokens: int | None,
    ) -> None:
        """`timeout_seconds` bounds a question with all its tries; `max_new_tokens` an answer, where
        a question does not say. Closes the endpoint when it is closed."""
        self._endpoint = endpoint
        self._cache = cache
        self._timeout_seconds = timeout_seconds
        self._max_new_tokens = max_new_tokens
        self._under_way = SingleFlight()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_lock = threading.Lock()

    @property
    def usage(self) -> LlmUsage:
        """What was asked so far."""
        return self._endpoint.budget.usage

    @property
    def is_of_this_loop(self) -> bool:
        """Whether it was asked, and that in the running event loop."""
        return self._loop is asyncio.get_running_loop()

    @overload
    async def ask(
        self,
        messages: str | Messages,
        *,
        schema: type[Form],
        temperature: float | None = 0.0,
        max_new_tokens: int | None = None,
        seed: int | None = None,
    ) -> Form: ...

    @overload
    async def ask(
        self,
        messages: str | Messages,
        *,
        schema: None = None,
        temperature: float | None = 0.0,
        max_new_tokens: int | None = None,
        seed: int | None = None,
    ) -> str: ...

    async def ask(
        self,
        messages: str | Messages,
        *,
        schema: Schema = None,
        temperature: float | None = 0.0,
        max_new_tokens: int | None = None,
        seed: int | None = None,
    ) -> Any:
        """The model's answer: its text, or with `schema` an object of that class.

        `messages` are in OpenAI's format; a text alone is one message of a user. An answer that is
        empty, or does not fit `schema`, is asked for once more with what was wrong. A text that
        `max_new_tokens` cut off is returned as it is.

        A question at temperature 0, or with a seed, is answered from the cache where it was
        answered before, and asked once where it is asked several times together. Others are draws,
        each asked on its own. An AgentScope model samples as it was made to, whatever is said here,
        and is never cached.

        Raises LlmAnswerError for an answer that does not fit, LlmError where there is none,
        LlmBudgetError where the budget is used up, and ConfigError for a refused key.
        """
        self._check_loop()
        self._endpoint.check_open()
        question = Question(
            messages=_plain(messages, schema),
            temperature=temperature,
            max_new_tokens=max_new_tokens or self._max_new_tokens,
            seed=seed,
        )
        text = await self._answer(question, schema)
        return text if schema is None else read_form(text, schema)

    async def close(self) -> None:
        """Nothing can be asked any more."""
        await self._endpoint.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _check_loop(self) -> None:
        """Raises LlmError in another event loop than the one that asked first.

        Connections and waiting callers belong to a loop. Serving several would take a bound on
        calls for each, or a thread of our own that AgentScope models do not expect.
        """
        loop = asyncio.get_running_loop()
        with self._loop_lock:
            self._loop = self._loop or loop
        if self._loop is not loop:
            raise LlmError(
                f"{self._endpoint.name} is asked from a second event loop, but belongs to the one "
                "that asked it first; write the judge's compute_reward as `async def`, or open a "
                "model in each loop"
            )

    async def _answer(self, question: Question, schema: Schema) -> str:
        """The text of a sound answer."""
        if self._endpoint.identity is None or not question.is_repeatable:
            return await self._ask_model(question, schema)
        key = _key(self._endpoint.identity, question)
        return await self._under_way.do(key, lambda: self._ask_cache(question, schema, key))

    async def _ask_cache(self, question: Question, schema: Schema, key: str) -> str:
        if self._cache is None:
            return await self._ask_model(question, schema)
        kept = await self._cache.read(key)
        if kept is not None and find_problem(kept, schema) is None:
            self._endpoint.budget.count(num_cache_hits=1)
            return kept
        text = await self._ask_model(question, schema)
        await self._cache.write(key, text)
        return text

    async def _ask_model(self, question: Question, schema: Schema) -> str:
        progress = Progress(ends_at=asyncio.get_running_loop().time() + self._timeout_seconds)
        try:
            async with asyncio.timeout_at(progress.ends_at):
                return await self._sound_answer(question, schema, progress)
        except TimeoutError as error:
            self._endpoint.budget.count(num_errors=1)
            raise LlmError(
                f"{self._endpoint.name}: no answer in {self._timeout_seconds:g} s "
                f"(astuner.llm.timeout_seconds) and {progress}; raise it, or ask less at once "
                "(astuner.llm.max_parallel)"
            ) from error
        except AstunerError:
            self._endpoint.budget.count(num_errors=1)
            raise

    async def _sound_answer(self, question: Question, schema: Schema, progress: Progress) -> str:
        """Ask, and once more where the answer does not do."""
        first = await self._endpoint.answer(question, progress)
        problem = _find_problem(first, schema)
        if problem is None:
            return first.text
        logger.debug("llm answer refused, asking once more")
        again = ask_again(question.messages, first.text, problem)
        second = await self._endpoint.answer(replace(question, messages=tuple(again)), progress)
        problem = _find_problem(second, schema)
        if problem is None:
            return second.text
        wanted = "answer" if schema is None else schema.__name__
        raise LlmAnswerError(
            f"{self._endpoint.name}: no {wanted}, though asked twice: {short(problem)}; the answer "
            f"begins {second.text[:100]!r}; ask for less, let answers be longer or name another "
            "model"
        )


def _plain(messages: str | Messages, schema: Schema) -> tuple[Mapping[str, Any], ...]:
    """A copy of the messages that nobody changes. Raises LlmError for what is no JSON."""
    asked = [{"role": "user", "content": messages}] if isinstance(messages, str) else [*messages]
    if not asked:
        raise LlmError("a question without messages cannot be asked; give at least one")
    try:
        copied = json.loads(json.dumps(asked))
    except (TypeError, ValueError) as error:
        raise LlmError(f"the messages of a question have to be JSON: {error}") from error
    return tuple(copied if schema is None else ask_for(schema, copied))


def _key(identity: str, question: Question) -> str:
    """What equal questions have in common; the schema stands in the messages."""
    return cache_key(
        {
            "endpoint": identity,
            "messages": question.messages,
            "temperature": question.temperature,
            "max_new_tokens": question.max_new_tokens,
            "seed": question.seed,
        }
    )


def _find_problem(answer: Answer, schema: Schema) -> str | None:
    problem = find_problem(answer.text, schema)
    return f"{problem}; it was cut off at its limit" if problem and answer.is_cut else problem
