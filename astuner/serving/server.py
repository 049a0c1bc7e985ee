"""A server in a running event loop: its socket and its life.

What it serves is handed in. uvicorn is imported when one is made.
"""

import asyncio
import socket
from typing import TYPE_CHECKING

from astuner.serving.address import http_address, listen, reachable_host
from astuner.serving.limits import ConnectionLimits

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from astuner.serving.answer import ErrorShape


class Server:
    """Listens as soon as it is made, so that its address is known; serves until `stop`."""

    def __init__(
        self,
        app: "ASGIApp",
        *,
        setting: str,
        host: str = "127.0.0.1",
        port: int = 0,
        listening: socket.socket | None = None,
        advertised_host: str | None = None,
        limits: ConnectionLimits | None = None,
        shape: "ErrorShape | None" = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """`setting` is the section that host and port come from, for the message of an error.

        A socket that is `listening` already stands in for host and port, and becomes the server's.
        `advertised_host` stands in `address`; None: the host, or the machine's own where that is
        all of its addresses. `limits` are those of its connections; None: what this process can
        bear. `shape` is that of errors for whoever does not speak HTTP well. `loop` is where to
        serve, for servers made in another thread; None: the running one.

        Raises ConfigError for an address that is taken.
        """
        from astuner.serving.answer import plain_error
        from astuner.serving.uvicorn_server import make_uvicorn

        loop = loop or asyncio.get_running_loop()
        self._uvicorn = make_uvicorn(
            app, limits or ConnectionLimits(), shape or plain_error, name=setting
        )
        self._socket = listening or listen(host, port, setting=setting)
        self.port: int = self._socket.getsockname()[1]
        self.address = http_address(advertised_host or reachable_host(host), self.port)
        """For clients, without a path: http://127.0.0.1:8000."""
        self._serving: asyncio.Task[None] | None = None
        loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        self._serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._socket]))

    async def stop(self) -> None:
        """Refuse connections, give answers under way two seconds, and end those that are open."""
        if self._serving is None:
            await asyncio.sleep(0)  # `_start` is due
        self._uvicorn.should_exit = True
        if self._serving is not None:
            await asyncio.wait({self._serving})
        self._uvicorn.abort_connections()
        self._socket.close()
