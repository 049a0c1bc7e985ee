"""One connection of a server: uvicorn's, with a strict reader before it and deadlines around it.

Owns neither the socket nor the place that it takes.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from astuner.serving.answer import ErrorShape
from astuner.serving.connection import CONNECTION, Connection, LingeringTransport
from astuner.serving.framing import Framing
from astuner.serving.json_text import to_json
from astuner.serving.limits import ConnectionLimits
from astuner.serving.places import Places
from astuner.serving.refusal import Refusal
from astuner.serving.seldom_log import SeldomLog


class HttpConnection(H11Protocol):
    """Puts the `Connection` of a client into the state of its requests, which come one by one."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        places: Places,
        limits: ConnectionLimits,
        shape: ErrorShape,
        log: SeldomLog,
    ) -> None:
        super().__init__(config, server_state, app_state={})
        self._places = places
        self._limits = limits
        self._shape = shape
        self._log = log
        self._requests = Framing(
            max_head_bytes=limits.max_head_bytes, max_header_lines=limits.max_header_lines
        )
        self._is_refused = False
        self._deadline: asyncio.TimerHandle | None = None

    # what the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        # It has what uvicorn calls of a transport.
        self.transport = LingeringTransport(  # pyright: ignore[reportAttributeAccessIssue]
            transport,
            seconds=self._limits.farewell_seconds,
            expects_more=lambda: self._is_refused or not self._requests.is_at_rest,
        )
        self._client = Connection(transport, on_known=lambda: self._places.know(self))
        self.app_state = {CONNECTION: self._client}
        self._places.come(self, now=self.loop.time())
        self._set_deadline(self._limits.head_seconds, self._be_late)

    def connection_lost(self, error: Exception | None) -> None:
        self._drop_deadline()
        super().connection_lost(error)
        self._client.lose()
        self._places.leave(self)
        self._places.free()

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self._go_on(lambda: self._requests.feed(data))

    # requests, one after the other

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._requests.is_whole:
            self._await_next()
        else:
            self._set_deadline(self._limits.rest_seconds, self.transport.abort)

    def _go_on(self, read: Callable[[], bytes]) -> None:
        """`read` gives what there is of the request that has begun, or of the next one."""
        is_new = not self._requests.is_in_body
        try:
            piece = read()
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if piece:
            if is_new:
                self._drop_deadline()
                self._places.ask(self)
            super().data_received(piece)
        elif self._requests.is_in_head and self._deadline is None:
            self._unset_keepalive_if_required()
            self._set_deadline(self._limits.head_seconds, self._be_late)
        if self._requests.num_waiting:
            self.flow.pause_reading()
        if self._requests.is_whole and self._is_answered:  # before it was whole
            self._await_next()
            self._keep_alive()

    @property
    def _is_answered(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete

    def _await_next(self) -> None:
        self._drop_deadline()
        self._places.rest(self, now=self.loop.time())
        if self._requests.num_waiting:
            self._go_on(self._requests.next)
        else:
            self._requests.next()

    def _keep_alive(self) -> None:
        """uvicorn does so when it has answered, and stops with the next byte that comes."""
        if self._requests.is_at_rest and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    # how it ends

    def show_out(self) -> None:
        self.transport.abort()

    def _be_late(self) -> None:
        if self._requests.is_at_rest:
            self.transport.close()
        else:
            seconds = self._limits.head_seconds
            self._refuse(
                Refusal(408, f"the header took longer than {seconds:g} s", code="too_slow")
            )

    def _refuse(self, refusal: Refusal) -> None:
        """Say why, unless an answer has begun, and end the connection."""
        self._is_refused = True
        self._drop_deadline()
        self._log.warn(
            str(refusal.status),
            "connection refused status=%d reason=%s",
            *(refusal.status, refusal.message),
        )
        if self.cycle is not None and not self._is_answered:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.abort()
                return
        self.transport.write(_written(refusal, self._shape))
        self.transport.close()

    def _set_deadline(self, seconds: float, end: Callable[[], None]) -> None:
        self._drop_deadline()
        self._deadline = self.loop.call_later(seconds, end)

    def _drop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _written(refusal: Refusal, shape: ErrorShape) -> bytes:
    body = to_json(shape(refusal))
    head = (
        f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\n"
        "content-type: application/json\r\n"
        f"content-length: {len(body)}\r\n"
        "connection: close\r\n\r\n"
    )
    return head.encode() + body
