"""uvicorn as our servers use it: in a loop that is not its own, quiet, and telling of connections.

Imported when a server starts. Owns no socket and no address.
"""

import asyncio
import contextlib
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from astuner.serving.address import BACKLOG
from astuner.serving.connection import CONNECTION, Connection

_KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection, so that it is they who close it."""
_LEAVE_SECONDS = 2
"""What an answer may take that is being written when the server stops."""


class UvicornServer(uvicorn.Server):
    """Leaves signals to the process, and can end connections at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def abort_connections(self) -> None:
        """Those that `serve` has left open: uvicorn waits for clients that do not read, then
        leaves them."""
        for protocol in list(self.server_state.connections):
            protocol.transport.abort()


class ConnectionProtocol(AutoHTTPProtocol):
    """Puts the `Connection` of a client into the state of its requests."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._client = Connection(transport)
        self.app_state = {**self.app_state, CONNECTION: self._client}

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._client.lose()


def make_uvicorn(app: ASGIApp) -> UvicornServer:
    return UvicornServer(
        uvicorn.Config(
            app,
            http=ConnectionProtocol,
            proxy_headers=False,
            access_log=False,
            log_config=None,
            log_level="error",  # it warns of every request that is not HTTP
            lifespan="off",
            ws="none",
            backlog=BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_LEAVE_SECONDS,
        )
    )
