"""The server: it answers of its health while it loads, of its models when it has them, and ends in
order.

Owns its life and its routes. Which models there are, and who is told of calls, is handed in.
"""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from astuner.engine.scheduler import EngineLoad
from astuner.gateway.app import make_app
from astuner.gateway.wires.shared import openai_error
from astuner.model_server.books import CallBooks
from astuner.model_server.client_call import ClientCall
from astuner.model_server.clients import ApiClients, server_ends
from astuner.model_server.recording import RecordingOptions
from astuner.model_server.served_call import CallObserver, ServedCall
from astuner.model_server.served_model import ServedModels
from astuner.serving.address import reachable_host
from astuner.serving.answer import json_answer
from astuner.serving.bounds import WaitingRoom
from astuner.serving.hosts import HostCheck, own_names
from astuner.serving.refusal import Refusal
from astuner.serving.server import Server
from astuner.serving.under_way import UnderWay

logger = logging.getLogger(__name__)

DOCS = "docs/serving.md"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How a server serves."""

    host: str
    keys: Sequence[str]
    """One of which a client has to show; without any, nobody has to."""
    max_body_bytes: int
    max_waiting_calls: int
    allowed_hosts: Sequence[str] = ()
    """Further names by which clients may call it."""
    allowed_origins: Sequence[str] = ()
    """Web pages whose scripts may ask, as https://example.org."""


class ModelServer:
    """`async with` it; it listens from the beginning, and refuses calls until `admit`."""

    def __init__(
        self,
        options: ServerOptions,
        listening: socket.socket,
        *,
        recording: RecordingOptions | None = None,
        observers: Sequence[CallObserver] = (),
    ) -> None:
        """The socket, which listens already, becomes the server's; `observers` are told of calls
        beside its own. Raises ConfigError where nothing can be recorded as it is asked for."""
        self._options = options
        self._listening = listening
        self._books = CallBooks(recording, self)
        self._observers = (self._books, *observers)
        self._clients = ApiClients(options.keys)
        self._models = ServedModels(())
        self._under_way = UnderWay()
        self._under_way.refuse_further(_loading)
        self._state = "loading"
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        options = self._options
        self._books.__enter__()
        self._server = Server(
            self._app(), shape=openai_error, setting="serve", host=options.host,
            listening=self._listening,
        )  # fmt: skip
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.refuse_further()
        self._clients.close()
        if self._server is not None:
            await self._server.stop()
        await asyncio.to_thread(self._books.__exit__, kind, error, traceback)

    @property
    def address(self) -> str:
        """Without a path: http://127.0.0.1:8000."""
        assert self._server is not None
        return self._server.address

    def admit(self, models: ServedModels) -> None:
        """From here on calls are answered, by these models."""
        self._models = models
        self._under_way.admit()
        self._state = "ready"

    def refuse_further(self) -> None:
        """From here on calls are refused; those under way go on."""
        self._under_way.refuse_further(server_ends)
        self._state = "ending"

    def num_under_way(self) -> int:
        return self._under_way.num_requests

    def engines(self) -> dict[str, EngineLoad]:
        """How busy they are, by the names of their models."""
        return {model.name: model.engine.load for model in self._models.all()}

    async def all_answered(self) -> None:
        """Wait until no call is under way."""
        await self._under_way.empty()

    def _app(self) -> ASGIApp:
        options = self._options
        further = self._books.routes(lambda headers: self._clients.find(headers).label)
        waiting = WaitingRoom(options.max_waiting_calls, setting="gateway.max_waiting_calls")
        app: ASGIApp = make_app(
            self._find,
            list_models=self._names,
            max_body_bytes=options.max_body_bytes,
            waiting=waiting,
            further=[Route("/readyz", self._ready, methods=["GET"]), *further],
            docs=DOCS,
        )
        names = {*own_names(), reachable_host(options.host), *options.allowed_hosts}
        app = HostCheck(app, names=names, shape=openai_error, setting="--allowed-host")
        if not options.allowed_origins:
            return app
        return CORSMiddleware(
            app,
            allow_origins=list(options.allowed_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )

    def _names(self) -> Sequence[str]:
        """Raises Refusal while there are none."""
        if not self._models.names:
            raise _loading()
        return self._models.names

    async def _ready(self, request: Request) -> Response:
        """Whether calls are answered: what a load balancer asks."""
        is_ready = self._under_way.is_open
        state = {"status": self._state, "models": list(self._models.names)}
        return json_answer(state, status=200 if is_ready else 503)

    def _find(self, scope: Scope) -> ClientCall:
        headers = dict(scope["headers"])
        try:
            client = self._clients.find(headers)
        except Refusal as refusal:
            self._tell(ServedCall.of_nobody(path=scope["path"], refusal=refusal))
            raise
        return ClientCall(
            client=client,
            models=self._models,
            under_way=self._under_way,
            path=scope["path"],
            headers=headers,
            tell=self._tell,
        )

    def _tell(self, call: ServedCall) -> None:
        for observer in self._observers:
            observer.served(call)


def _loading() -> Refusal:
    return Refusal(
        503,
        "the model is being loaded; ask again in a moment",
        code="loading",
        headers={"retry-after": "5"},
    )


async def in_daemon(work: Callable[[], T], *, name: str) -> T:
    """What blocking work gives, from a thread that holds up no end of this process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # None where T is

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  # told to who waits
            failure = error
        with contextlib.suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done
