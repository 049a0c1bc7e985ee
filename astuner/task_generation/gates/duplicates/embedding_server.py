"""An embedding model behind an OpenAI-compatible server."""

import asyncio
import itertools
import json
from collections.abc import Sequence
from random import Random

import httpx
import numpy
from pydantic import BaseModel, ValidationError

from astuner.errors import ConfigError, LlmError
from astuner.llm.budget import Budget
from astuner.llm.endpoint import Answer, Question, Setback
from astuner.llm.limiter import CallLimiter
from astuner.llm.patience import PatientEndpoint, Progress
from astuner.llm.quoting import short
from astuner.llm.retries import Backoff, status_setback
from astuner.llm.server import LlmServer

_SETTINGS = "task_reader.data_generation.filter.params"


class _Embedding(BaseModel):
    index: int
    embedding: list[float]


class _EmbeddingTokens(BaseModel):
    prompt_tokens: int


class _Embeddings(BaseModel):
    """What is read of an answer; servers add to it."""

    data: list[_Embedding]
    usage: _EmbeddingTokens | None = None


class EmbeddingServer:
    """Waits, tries again and counts as every model that is asked; see `PatientEndpoint`."""

    max_batch = 10
    """DashScope takes no more of text-embedding-v4."""

    def __init__(
        self,
        server: LlmServer,
        model: str,
        *,
        max_parallel: int,
        timeout_seconds: float,
        backoff: Backoff | None = None,
    ) -> None:
        self.identity = json.dumps([server.base_url.rstrip("/"), model])
        self._timeout_seconds = timeout_seconds
        self._endpoint = PatientEndpoint(
            _EmbeddingEndpoint(server, model),
            limiter=CallLimiter(max_parallel),
            budget=Budget(),
            backoff=backoff or Backoff(random=Random()),
        )

    async def embed(self, texts: Sequence[str]) -> numpy.ndarray:
        question = Question(
            messages=tuple({"role": "user", "content": text} for text in texts),
            temperature=None,
            max_new_tokens=None,
            seed=None,
        )
        progress = Progress(ends_at=asyncio.get_running_loop().time() + self._timeout_seconds)
        answer = await self._endpoint.answer(question, progress)
        return numpy.array(json.loads(answer.text), dtype=numpy.float32)


class _EmbeddingEndpoint:
    """Each message is a text; the answer is the list of their vectors as JSON."""

    def __init__(self, server: LlmServer, model: str) -> None:
        self.name = f"embedding model {model!r} at {server.base_url}"
        self.identity = None
        self._server = server
        self._model = model
        self._keys = itertools.cycle(server.keys or ("not-needed",))
        self._tls = httpx.create_ssl_context()

    async def answer(self, question: Question, *, seconds: float) -> Answer | Setback:
        texts = [message["content"] for message in question.messages]
        try:
            # A client for each request: nobody tells a filter when it is asked for the last time.
            async with httpx.AsyncClient(verify=self._tls, timeout=seconds) as client:
                response = await client.post(
                    f"{self._server.base_url.rstrip('/')}/embeddings",
                    json={"model": self._model, "input": texts, "encoding_format": "float"},
                    headers={"Authorization": f"Bearer {next(self._keys)}"},
                )
        except httpx.TimeoutException:
            return Setback(reason="timeout", found="the server did not answer in time")
        except httpx.TransportError as error:
            return Setback(reason="connection", found=f"{type(error).__name__}: {short(error)}")
        if response.status_code != 200:
            return self._refused(response)
        return self._read(response.text, len(texts))

    async def close(self) -> None:
        """Nothing is kept open."""

    def _read(self, body: str, num_texts: int) -> Answer:
        try:
            read = _Embeddings.model_validate_json(body)
        except ValidationError as error:
            found = short(self._server.without_keys(body))
            raise LlmError(
                f"{self.name}: the answer holds no embeddings but {found!r}; does the address in "
                f"{_SETTINGS}.base_url end in /v1?"
            ) from error
        vectors = {one.index: one.embedding for one in read.data}
        lengths = {len(vector) for vector in vectors.values()}
        if set(vectors) != set(range(num_texts)) or len(lengths) != 1:
            raise LlmError(
                f"{self.name}: {num_texts} texts were sent, and {len(vectors)} vectors of "
                f"{sorted(lengths)} numbers came back"
            )
        return Answer(
            text=json.dumps([vectors[index] for index in range(num_texts)]),
            is_cut=False,
            num_input_tokens=read.usage.prompt_tokens if read.usage else None,
            num_output_tokens=0,
        )

    def _refused(self, response: httpx.Response) -> Setback:
        status, said = response.status_code, short(self._server.without_keys(response.text))
        if status == 401:
            found = f"the key of {self._server.api_key_env}" if self._server.keys else "no key"
            raise ConfigError(
                f"{self.name}: the server refused {found} (401); set {_SETTINGS}.api_key, or "
                f"{_SETTINGS[:-7]}.enabled to false"
            )
        setback = status_setback(status, response.headers, f"{status}: {said}")
        if setback is None:
            raise LlmError(
                f"{self.name}: refused with {status}: {said}; check {_SETTINGS}.base_url and model"
            )
        return setback
