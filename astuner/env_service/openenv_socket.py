"""One connection to an OpenEnv server, which has an environment of its own for as long as it lasts.

Sends a message and gives what the server answered. Knows neither actions nor tasks.
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from astuner.env_service.remote_server import MAX_ANSWER_BYTES, RemoteServer
from astuner.errors import EnvServiceError

_CLOSE_SECONDS = 2.0


class OpenEnvSocket:
    """Answers one question at a time. Who opens it closes it."""

    def __init__(self, connection: ClientConnection, server: RemoteServer) -> None:
        self._connection = connection
        self._server = server
        self._turn = asyncio.Lock()
        self._gone: str | None = None
        """Why no answer can be trusted any more: it might belong to an earlier question."""

    @classmethod
    async def open(cls, server: RemoteServer) -> Self:
        """Raises EnvServiceError where nobody, or nobody who speaks the protocol, listens."""
        url = f"{server.websocket_url}/ws"
        try:
            connection = await connect(
                url,
                additional_headers=server.headers,
                open_timeout=server.timeout_seconds,
                close_timeout=_CLOSE_SECONDS,
                max_size=MAX_ANSWER_BYTES,
                # An environment that computes inside of its server's loop answers no pings.
                ping_timeout=None,
                proxy=None if server.is_local else True,
            )
        except (OSError, TimeoutError, WebSocketException) as error:
            raise EnvServiceError(
                f"OpenEnv server: no connection to {url}: {type(error).__name__}: {error}; see "
                f"whether it runs there and whether {server.section}.url is its address"
            ) from error
        return cls(connection, server)

    async def ask(self, message: Mapping[str, Any], *, what: str) -> Mapping[str, Any]:
        """The server's answer, {"type", "data"}; one that refuses has the type "error".

        `what` names the answer, such as "the observation of step 3". Sends once, whatever happens.
        Raises EnvServiceError where no answer comes; then, and after a cancellation, no further
        question is answered either.
        """
        async with self._turn:
            if self._gone is not None:
                raise self._failed(what, f"the connection is gone: {self._gone}")
            self._gone = f"{what} never came"
            answer = await self._exchange(message, what)
            self._gone = None
            return answer

    async def _exchange(self, message: Mapping[str, Any], what: str) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(self._server.timeout_seconds):
                with contextlib.suppress(ConnectionClosed):  # what it said before is still to come
                    await self._connection.send(json.dumps(message))
                text = await self._connection.recv()
        except TimeoutError as error:
            raise self._failed(
                what,
                f"it did not come within {self._server.timeout_seconds:g} s "
                f"({self._server.section}.timeout_seconds); see what the environment does, or "
                "raise the limit",
            ) from error
        except ConnectionClosed as error:
            raise self._failed(
                what,
                f"the connection was closed in place of it: {error}; whether the action was done "
                "is not known, so it is not sent again: see the log of the server",
            ) from error
        return self._read(text, what)

    def _read(self, text: str | bytes, what: str) -> Mapping[str, Any]:
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), dict):
            raise self._failed(
                what,
                f'found {text!r:.200}; an answer is a JSON object with "type" and "data": see '
                f"whether {self._server.section}.url is an OpenEnv server",
            )
        return answer

    def _failed(self, what: str, why: str) -> EnvServiceError:
        return EnvServiceError(f"OpenEnv server at {self._server.url}, {what}: {why}")

    async def close(self) -> None:
        """With it ends the environment, also in mid-step. Twice is harmless."""
        is_idle = self._gone is None
        self._gone = self._gone or "it was released"
        if is_idle:  # a server that is told writes no traceback of a lost client
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._connection.send(json.dumps({"type": "close"}))
                    await self._connection.wait_closed()
        await self._connection.close()
