"""uvicorn as our servers use it: in a loop that is not its own, quiet, with connections of ours.

Imported when a server starts. Owns no address. The parser is h11 also where httptools is installed:
one that reads alike everywhere is worth more than 0.1 ms a call.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from astuner.serving.answer import ErrorShape
from astuner.serving.http_connection import HttpConnection
from astuner.serving.limits import ConnectionLimits
from astuner.serving.places import Places
from astuner.serving.reception import Reception
from astuner.serving.seldom_log import SeldomLog

logger = logging.getLogger(__name__)

_KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection, so that it is they who close it."""
_LEAVE_SECONDS = 2
"""What an answer may take that is being written when the server stops."""


class UvicornServer(uvicorn.Server):
    """Leaves signals to the process, accepts by itself, and can end connections at once."""

    def __init__(
        self, config: uvicorn.Config, limits: ConnectionLimits, shape: ErrorShape, *, name: str
    ) -> None:
        super().__init__(config)
        self._limits = limits
        self._shape = shape
        self._name = name
        self._reception: Reception | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn is given no socket; `_serve` has loaded its configuration."""
        await super().startup(sockets=[])
        (listening,) = sockets or []
        loop = asyncio.get_running_loop()
        places = Places(
            self._limits.max_connections, newcomer_seconds=self._limits.newcomer_seconds
        )
        log = SeldomLog(logger, clock=loop.time)

        def make_connection() -> HttpConnection:
            return HttpConnection(
                self.config, self.server_state, places, self._limits, self._shape, log
            )

        self._reception = Reception(listening, places, make_connection, log, name=self._name)
        self._reception.open()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._reception is not None:
            self._reception.close()
        await super().shutdown(sockets=sockets)

    def abort_connections(self) -> None:
        """Those that `serve` has left open: uvicorn waits for clients that do not read, then
        leaves them."""
        for protocol in list(self.server_state.connections):
            protocol.transport.abort()


def make_uvicorn(
    app: ASGIApp, limits: ConnectionLimits, shape: ErrorShape, *, name: str
) -> UvicornServer:
    config = uvicorn.Config(
        app,
        http="h11",
        proxy_headers=False,
        access_log=False,
        log_config=None,
        log_level="error",  # it warns of every request that is not HTTP
        lifespan="off",
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_LEAVE_SECONDS,
    )
    return UvicornServer(config, limits, shape, name=name)
