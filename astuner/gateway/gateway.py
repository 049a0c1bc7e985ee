"""The gateway of a run: a server that starts when the first workflow asks for its address.

Owns the server's life; one per run, stopped by the run that opened it. uvicorn and Starlette are
imported when it starts. What is served stands in `app.py`.
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Literal, Self

from astuner.errors import WorkflowError
from astuner.gateway.caller import Caller, caller_of
from astuner.gateway.door import Door
from astuner.gateway.refusals import over, unknown_key
from astuner.gateway.sampling import Distribution, SamplingRule
from astuner.inference.request import Chat
from astuner.serving.address import reachable_host
from astuner.serving.keys import Keys
from astuner.serving.server import Server
from astuner.trajectory.refusal_log import RefusalLog

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """How the gateway serves."""

    host: str
    advertised_host: str | None
    """In the address that agents get; None: `host`, or the machine's own where that is all."""
    allowed_hosts: Sequence[str] = ()
    """By which agents may call it besides."""
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
        self._keys: Keys[Caller] = Keys(prefix="sk-astuner-", unknown=unknown_key, revoked=over)
        on_other = options.client_sampling
        self._training = SamplingRule(options.training, on_other=on_other)
        self._refusal_log = RefusalLog()
        self._validation = SamplingRule(options.validation, options.training, on_other=on_other)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._starting:  # a thread may be about to make one
            server, self._server, self._loop = self._server, None, None
        if server is not None:
            await server.stop()

    @property
    def port(self) -> int | None:
        """Where it listens; None before a workflow has asked for its address."""
        return None if self._server is None else self._server.port

    def open(self, chat: Chat, *, seconds: float, is_validation: bool) -> Door:
        """A door for the calls of an episode, of which none may take longer; whoever ends the
        episode ends them."""
        return Door(
            chat,
            self._keys,
            self._validation if is_validation else self._training,
            self._refusal_log,
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
                self._server = self._start(self._loop)
            return f"{self._server.address}/v1"

    def _start(self, loop: asyncio.AbstractEventLoop) -> Server:
        from astuner.gateway.app import make_app
        from astuner.gateway.wires.shared import openai_error
        from astuner.serving.bounds import WaitingRoom
        from astuner.serving.hosts import HostCheck, own_names

        options = self._options
        names = {*own_names(), reachable_host(options.host), *options.allowed_hosts}
        if options.advertised_host is not None:
            names.add(options.advertised_host)
        app = make_app(
            partial(caller_of, self._keys),
            list_models=lambda: (options.model_name,),
            max_body_bytes=options.max_body_bytes,
            waiting=WaitingRoom(options.max_waiting_calls, setting="gateway.max_waiting_calls"),
        )
        server = Server(
            HostCheck(app, names=names, shape=openai_error, setting="gateway.allowed_hosts"),
            shape=openai_error,
            setting="gateway",
            host=options.host,
            port=options.port,
            advertised_host=options.advertised_host,
            loop=loop,
        )
        logger.info("gateway listens address=%s/v1", server.address)
        return server
