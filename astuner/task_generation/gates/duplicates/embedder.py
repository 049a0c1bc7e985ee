"""What gives a text its vector: in batches, and each text once."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import numpy

from astuner.task_generation.gates.duplicates.embedding_store import EmbeddingStore

_GATHER_SECONDS = 0.02
"""How long a text waits for others that are asked for together with it."""


class EmbeddingModel(Protocol):
    """A model that can be asked for vectors."""

    identity: str
    """Equal for models that give equal vectors."""
    max_batch: int
    """Texts in one request."""

    async def embed(self, texts: Sequence[str]) -> numpy.ndarray:
        """(texts, numbers). Raises the errors of `LanguageModel.ask`."""
        ...


class Embedder:
    """Vectors of length 1 from a model, by way of a store."""

    def __init__(self, model: EmbeddingModel, store: EmbeddingStore) -> None:
        self._model = model
        self._store = store
        self._waiting: dict[str, asyncio.Future[numpy.ndarray]] = {}
        """Asked for, and not in a request yet."""
        self._under_way: dict[str, asyncio.Future[numpy.ndarray]] = {}
        self._requests: set[asyncio.Task[None]] = set()

    async def vector(self, text: str) -> numpy.ndarray:
        """Raises the errors of the model."""
        if (stored := self._store.get(text)) is not None:
            return stored
        future = self._waiting.get(text) or self._under_way.get(text)
        if future is None:
            loop = asyncio.get_running_loop()
            future = self._waiting[text] = loop.create_future()
            if len(self._waiting) >= self._model.max_batch:
                self._send()
            elif len(self._waiting) == 1:
                loop.call_later(_GATHER_SECONDS, self._send)
        return await asyncio.shield(future)  # others may wait for it too

    def _send(self) -> None:
        batch, self._waiting = self._waiting, {}
        if batch:
            self._under_way.update(batch)
            request = asyncio.ensure_future(self._ask(batch))
            self._requests.add(request)
            request.add_done_callback(self._requests.discard)

    async def _ask(self, batch: dict[str, asyncio.Future[numpy.ndarray]]) -> None:
        try:
            vectors = await self._model.embed(list(batch))
            lengths = numpy.linalg.norm(vectors, axis=1, keepdims=True)
            unit = dict(zip(batch, vectors / numpy.maximum(lengths, 1e-12), strict=True))
            await asyncio.to_thread(self._store.keep, unit)
            for text, future in batch.items():
                _settle(future, self._store.get(text))
        except BaseException as error:
            for future in batch.values():
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # whoever asked may have left
            if not isinstance(error, Exception):
                raise
        finally:
            for text in batch:
                del self._under_way[text]


def _settle(future: "asyncio.Future[numpy.ndarray]", vector: numpy.ndarray | None) -> None:
    assert vector is not None
    if not future.done():
        future.set_result(vector)
