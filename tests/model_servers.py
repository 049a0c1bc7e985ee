"""A model server over the tiny model, for tests that talk HTTP to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from astuner.model_server.entrance import listen_for_clients
from astuner.model_server.load import LoadedModels
from astuner.model_server.recording import RecordingOptions
from astuner.model_server.served_call import ServedCall
from astuner.model_server.server import ModelServer, ServerOptions
from astuner.model_server.serving import serve_models

QUESTION = [{"role": "user", "content": "What is 2 plus 3?"}]


class Seen:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.calls: list[ServedCall] = []

    def served(self, call: ServedCall) -> None:
        self.calls.append(call)


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """A server that answers, and a client of it."""

    server: ModelServer
    address: str
    http: httpx.AsyncClient
    seen: Seen
    signals: list["asyncio.Future[int]"]
    """That were waited for, each to be set by the test."""
    ended: "asyncio.Task[int]"
    said: list[str]

    async def post(self, path: str, body: Mapping[str, Any], **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(f"{self.address}/v1/{path}", json=body, headers=named)

    async def ask(
        self, *, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        """A chat completion of one question."""
        asked = {"messages": QUESTION, "max_tokens": 6, **fields}
        return await self.post("chat/completions", asked, **(headers or {}))


@contextlib.asynccontextmanager
async def talking(
    loaded: LoadedModels,
    *,
    recording: RecordingOptions | None = None,
    drain_seconds: float = 20,
    **changes: Any,
) -> AsyncIterator[Talk]:
    options = {"host": "127.0.0.1", "keys": (), "max_body_bytes": 100_000, "max_waiting_calls": 99}
    listening = listen_for_clients("127.0.0.1", 0, has_keys=False, without_key=False)
    seen, said, signals = Seen(), [], []
    server = ModelServer(
        ServerOptions(**{**options, **changes}),
        listening,
        observers=[seen],
        recording=recording,
    )
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def next_signal() -> "asyncio.Future[int]":
        signals.append(asyncio.get_running_loop().create_future())
        return signals[-1]

    ended = asyncio.create_task(
        serve_models(
            server,
            lambda: loaded,
            next_signal=next_signal,
            drain_seconds=drain_seconds,
            on_ready=lambda address, _: ready.set_result(address),
            say=said.append,
        )
    )
    await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        yield Talk(
            server=server,
            address=ready.result(),
            http=http,
            seen=seen,
            signals=signals,
            ended=ended,
            said=said,
        )
    if not signals[0].done():
        signals[0].set_result(2)
    await ended
