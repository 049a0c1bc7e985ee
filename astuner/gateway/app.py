"""The path of one HTTP call: key, body, wire format, sampling, flight, answer.

Owns the routes. Every refusal leaves here in the error shape of its wire format.
"""

import hashlib
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from astuner.gateway.bounds import WaitingRoom, read_body
from astuner.gateway.caller import Caller, Overdue
from astuner.gateway.connection import CONNECTION, Connection
from astuner.gateway.flights import Flight, Ticket
from astuner.gateway.keys import Keys
from astuner.gateway.refusal import Refusal, refusal_of
from astuner.gateway.wires.anthropic_messages import MESSAGES
from astuner.gateway.wires.body import parse_body
from astuner.gateway.wires.chat_completions import CHAT_COMPLETIONS
from astuner.gateway.wires.completions import COMPLETIONS
from astuner.gateway.wires.json_text import JSON, to_json
from astuner.gateway.wires.responses import RESPONSES
from astuner.gateway.wires.shared import openai_error
from astuner.gateway.wires.wire_format import Ask, EventWriter, WireFormat
from astuner.inference.request import ChatReply
from astuner.inference.watch import Delta

WIRE_FORMATS: Sequence[WireFormat] = (CHAT_COMPLETIONS, COMPLETIONS, RESPONSES, MESSAGES)

_JSON_HEADERS = {"content-type": "application/json"}
_STREAM_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-cache"}


def make_app(
    keys: Keys[Caller], *, model_name: str, max_body_bytes: int, waiting: WaitingRoom
) -> Starlette:
    """All that the gateway serves."""
    routes = [
        Route(wire.path, _Endpoint(wire, keys, max_body_bytes, waiting), methods=["POST"])
        for wire in WIRE_FORMATS
    ]
    shapes = {wire.path: wire.error for wire in WIRE_FORMATS}

    def models(request: Request) -> Response:
        try:
            keys.owner(_api_key(dict(request.headers.raw)))
        except Refusal as refusal:
            return _refused(refusal, openai_error)
        model = {"id": model_name, "object": "model", "created": 0, "owned_by": "astuner"}
        return _json({"object": "list", "data": [model]})

    def health(request: Request) -> Response:
        return _json({"status": "ok", "waiting_calls": waiting.num_calls})

    def missing(request: Request, error: Exception) -> Response:
        what = f"{request.method} {request.url.path} is not served; see docs/gateway.md"
        status = getattr(error, "status_code", 404)
        shape = shapes.get(request.url.path, openai_error)
        return _refused(Refusal(status, what, code="not_found"), shape)

    def broken(request: Request, error: Exception) -> Response:
        what = f"the gateway failed with {type(error).__name__}; run.log has the traceback"
        return _refused(Refusal(500, what, code="gateway_failed"), openai_error)

    routes += [
        Route("/v1/models", _in_loop(models), methods=["GET"]),
        Route("/healthz", _in_loop(health), methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={404: missing, 405: missing, 500: broken})


def _in_loop(function: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    """Starlette runs plain functions in threads."""

    async def endpoint(request: Request) -> Response:
        return function(request)

    return endpoint


class _Endpoint:
    """One wire format as an ASGI application."""

    def __init__(
        self, wire: WireFormat, keys: Keys[Caller], max_body_bytes: int, waiting: WaitingRoom
    ) -> None:
        self._wire = wire
        self._keys = keys
        self._max_body_bytes = max_body_bytes
        self._waiting = waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._waiting.place():
                await self._serve(scope, receive, send)
        except ClientDisconnect:
            return
        except Refusal as refusal:
            await _refused(refusal, self._wire.error)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = self._keys.owner(_api_key(dict(scope["headers"])))
        try:
            with caller.serving():
                await self._call(caller, scope, receive, send)
        except Overdue:
            await _connection(scope).hang_up()

    async def _call(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        body = await read_body(headers, receive, max_bytes=self._max_body_bytes)
        ask = self._wire.read(parse_body(body))
        told = _sampling_headers(caller.rule.replaced(ask))
        choices = [caller.fly(one, is_stream=ask.is_stream) for one in ask.requests]
        flight = caller.flights.board(_ticket(headers, self._wire.path, body), choices)
        reader = _Reader(_connection(scope), send, flight)
        try:
            if ask.is_stream:
                await self._stream(reader, ask, told)
            else:
                await self._answer(reader, ask, told)
        finally:
            caller.leave(flight, has_read=reader.has_read)
            reader.close()

    async def _answer(self, reader: "_Reader", ask: Ask, headers: dict[str, str]) -> None:
        replies = await reader.replies()
        body = to_json(self._wire.write(ask, reader.flight.head, replies))
        length = {"content-length": str(len(body))}
        await reader.begin({**_JSON_HEADERS, **length, **headers, **_format_headers(replies)})
        await reader.end(body)
        reader.note_read()

    async def _stream(self, reader: "_Reader", ask: Ask, headers: dict[str, str]) -> None:
        """As it is sampled. What fails before the first piece is answered with its status."""
        if ask.answer_format:
            headers = {**headers, **_format_headers(await reader.replies())}
        await reader.first()
        writer = self._wire.events(ask, reader.flight.head)
        await reader.begin({**_STREAM_HEADERS, **headers})
        await reader.write(writer.start())
        try:
            await self._tell(reader, writer)
        except Refusal as refusal:
            await reader.write(writer.fail(refusal))
        await reader.end()

    async def _tell(self, reader: "_Reader", writer: EventWriter) -> None:
        flight, num_told = reader.flight, 0
        while True:
            has_landed = flight.has_landed
            news = flight.deltas[num_told:]
            num_told += len(news)
            events = [e for choice, delta in _joined(news) for e in writer.delta(choice, delta)]
            if has_landed:
                await reader.write([*events, *writer.end(await reader.replies())])
                reader.note_read()
                return
            await reader.write(events)
            await reader.news()


def _joined(news: Sequence[tuple[int, Delta]]) -> Iterator[tuple[int, Delta]]:
    """What came since the last event, in as few pieces as it takes."""
    for (choice, kind), run in itertools.groupby(news, key=lambda one: (one[0], one[1].kind)):
        yield choice, Delta(kind=kind, text="".join(delta.text for _, delta in run))


class _Reader:
    """One client that waits for a flight. Raises ClientDisconnect once it is gone."""

    def __init__(self, connection: Connection, send: Send, flight: Flight) -> None:
        self.flight = flight
        self.has_read = False
        self._connection = connection
        self._send = send
        self._came = flight.watch()
        connection.watch(self._came.set)

    async def news(self) -> None:
        """Wait until the flight has news."""
        await self._came.wait()
        self._came.clear()
        if self._connection.is_lost:
            raise ClientDisconnect

    async def first(self) -> None:
        """Wait for the first piece, or the end. Raises Refusal when the flight failed before."""
        while not (self.flight.deltas or self.flight.has_landed):
            await self.news()
        if self.flight.has_failed and not self.flight.deltas:
            await self.replies()

    async def replies(self) -> list[ChatReply]:
        """Wait for the end. Raises Refusal when the flight failed."""
        while not self.flight.has_landed:
            await self.news()
        error = self.flight.error()
        if error is not None:
            raise refusal_of(error) from error
        return self.flight.replies()

    async def begin(self, headers: dict[str, str]) -> None:
        pairs = [(key.encode(), value.encode()) for key, value in headers.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": pairs})

    async def write(self, events: list[bytes]) -> None:
        if events:
            body = b"".join(events)
            await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": body})

    def note_read(self) -> None:
        """The whole answer was handed to the connection."""
        self.has_read = not self._connection.is_lost

    def close(self) -> None:
        self.flight.unwatch(self._came)
        self._connection.unwatch(self._came.set)


def _connection(scope: Scope) -> Connection:
    return scope["state"][CONNECTION]


def _api_key(headers: Mapping[bytes, bytes]) -> str:
    """Anthropic's clients send theirs in x-api-key."""
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"bearer":
        key = headers.get(b"x-api-key", b"")
    return key.decode("latin-1")


def _ticket(headers: Mapping[bytes, bytes], path: str, body: bytes) -> Ticket:
    attempt = headers.get(b"x-stainless-retry-count", b"")
    digest = hashlib.blake2b(body, digest_size=16, person=path.encode()[-16:])
    return Ticket(
        body=digest.digest(),
        idempotency_key=headers.get(b"idempotency-key"),
        attempt=int(attempt) if attempt.isdigit() else None,
    )


def _sampling_headers(replaced: tuple[str, ...]) -> dict[str, str]:
    return {"x-astuner-sampling": f"replaced {', '.join(replaced)}"} if replaced else {}


def _format_headers(replies: Sequence[ChatReply]) -> dict[str, str]:
    checks = [reply.format_check for reply in replies if reply.format_check]
    return {"x-astuner-format": ", ".join(checks)} if checks else {}


def _json(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        to_json(value), status_code=status, headers=headers, media_type="application/json"
    )


def _refused(refusal: Refusal, error: Callable[[Refusal], JSON]) -> Response:
    return _json(error(refusal), status=refusal.status, headers=refusal.headers)
