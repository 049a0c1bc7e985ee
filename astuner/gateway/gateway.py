"""The gateway of a run: a server that starts when the first workflow asks for its address.

Owns the listening socket and the server's life; one per run, stopped by the run that opened it.
uvicorn and Starlette are imported when it starts. What is served stands in `app.py`.
"""

import asyncio
import logging
import socket
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from astuner.errors import ConfigError, WorkflowError
from astuner.gateway.caller import Caller
from astuner.gateway.connection import CONNECTION, Connection
from astuner.gateway.door import Door
from astuner.gateway.keys import Keys
from astuner.gateway.sampling import Distribution, SamplingRule
from astuner.inference.request import Chat

logger = logging.getLogger(__name__)

_BACKLOG = 4096
"""Connections that may wait to be accepted."""
_KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection, so that it is they who close it."""
_LEAVE_SECONDS = 2
"""What an answer may take that is being written when the run ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """How the gateway serves."""

    host: str
    advertised_host: str | None
    """In the address that agents get; None: `host`, or the machine's own where that is all."""
    port: int
    """0: any that is free."""
    max_body_bytes: int
    max_waiting_calls: int
    client_sampling: Literal["refuse", "replace"]
    model_name: str
    """As GET /v1/models lists it."""
    training: Distribution
    validation: Distribution


class Gateway:
    """`async with` it for as long as episodes run."""

    def __init__(self, options: GatewayOptions) -> None:
        self._options = options
        self._keys: Keys[Caller] = Keys()
        on_other = options.client_sampling
        self._training = SamplingRule(options.training, on_other=on_other)
        self._validation = SamplingRule(options.validation, options.training, on_other=on_other)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()
        self._server: _Server | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        server, self._server, self._loop = self._server, None, None
        if server is not None:
            await server.stop()

    def open(self, chat: Chat, *, seconds: float, is_validation: bool) -> Door:
        """A door for the calls of an episode that may take so long."""
        return Door(
            chat,
            self._keys,
            self._validation if is_validation else self._training,
            find_base_url=self._base_url,
            seconds=seconds,
        )

    def _base_url(self) -> str:
        """Starts the server when it is not yet there; from any thread.

        Raises WorkflowError outside of `async with`, ConfigError for an address that is taken.
        """
        with self._starting:
            if self._loop is None:
                raise WorkflowError("the run has ended: the model has no address any more")
            if self._server is None:
                self._server = _Server(self._options, self._keys, self._loop)
            return self._server.base_url


class _Server:
    """uvicorn on a socket that listens at once, so that the address is known at once."""

    def __init__(
        self, options: GatewayOptions, keys: Keys[Caller], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._socket = _listen(options.host, options.port)
        self._uvicorn = _make_uvicorn(options, keys)
        port = self._socket.getsockname()[1]
        host = options.advertised_host or _reachable(options.host)
        shown = f"[{host}]" if ":" in host else host
        self.base_url = f"http://{shown}:{port}/v1"
        self._serving: asyncio.Task[None] | None = None
        loop.call_soon_threadsafe(self._start)
        logger.info("gateway listens address=%s", self.base_url)

    def _start(self) -> None:
        self._serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._socket]))

    async def stop(self) -> None:
        """Refuse connections, end those that are open, and wait for it."""
        if self._serving is None:
            await asyncio.sleep(0)  # `_start` is due
        self._uvicorn.should_exit = True
        if self._serving is not None:
            await asyncio.wait({self._serving})
        self._socket.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off for sockets that name their protocol, and for no others;
    # with it, each answer waits 40 ms for an acknowledgement.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"gateway.host {host}, gateway.port {port}: cannot listen there ({error}); choose "
            "another port, or 0 for any that is free"
        ) from error
    return listening


def _reachable(host: str) -> str:
    """The host itself, or for all addresses of the machine the one that it reaches others from."""
    elsewhere = {"0.0.0.0": "192.0.2.1", "::": "2001:db8::1"}.get(host)
    if elsewhere is None:
        return host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Addresses for documentation (RFC 5737, RFC 3849); connecting a datagram socket sends nothing.
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((elsewhere, 9))
        except OSError:  # there is no network
            return "::1" if ":" in host else "127.0.0.1"
        return asking.getsockname()[0]


def _make_uvicorn(options: GatewayOptions, keys: Keys[Caller]) -> Any:
    import contextlib

    import uvicorn
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    from astuner.gateway.app import make_app
    from astuner.gateway.bounds import WaitingRoom

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self):  # noqa: ANN202  # as uvicorn declares it
            """Ctrl-C belongs to the run."""
            yield

    class Protocol(AutoHTTPProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._client = Connection(transport)
            self.app_state = {**self.app_state, CONNECTION: self._client}

        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            self._client.lose()

    app = make_app(
        keys,
        model_name=options.model_name,
        max_body_bytes=options.max_body_bytes,
        waiting=WaitingRoom(options.max_waiting_calls),
    )
    return Server(
        uvicorn.Config(
            app,
            http=Protocol,
            proxy_headers=False,
            access_log=False,
            log_config=None,
            log_level="error",  # it warns of every request that is not HTTP
            lifespan="off",
            ws="none",
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_LEAVE_SECONDS,
        )
    )
