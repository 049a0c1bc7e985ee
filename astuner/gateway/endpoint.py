"""The path of one HTTP call: key, body, wire format, sampling, flight, answer.

Every refusal leaves here in the error shape of its wire format, and is noted by its asker.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from astuner.gateway.asker import Asker, FindAsker, Overdue
from astuner.gateway.flights import Ticket
from astuner.gateway.reader import Reader
from astuner.gateway.refusals import (
    bad_request,
    gateway_failed,
    refused_call,
)
from astuner.gateway.wires.body import parse_body
from astuner.gateway.wires.wire_format import Ask, EventWriter, WireFormat
from astuner.inference.request import ChatReply
from astuner.inference.watch import Delta
from astuner.serving.answer import refused
from astuner.serving.bounds import WaitingRoom, read_body
from astuner.serving.connection import connection_of
from astuner.serving.json_text import to_json
from astuner.serving.refusal import Refusal

_JSON_HEADERS = {"content-type": "application/json"}
_RETRY_COUNT = b"x-stainless-retry-count"
_MAX_COUNT_DIGITS = 9
_LONG_BODY = 100_000
"""Bytes of a body that is read beside the event loop: some 10 ms."""
_STREAM_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-cache"}


class _Noting:
    """Around the answer to a call: whatever it is refused with is noted, and passes.

    No `except`, since what is unknown here is nobody's to catch.
    """

    def __init__(self, asker: Asker, path: str) -> None:
        self._asker, self._path = asker, path

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, ClientDisconnect):
            refusal = error if isinstance(error, Refusal) else gateway_failed(error)
            self._asker.note_refused(refused_call(self._path, refusal))


class Endpoint:
    """One wire format as an ASGI application."""

    def __init__(
        self, wire: WireFormat, find: FindAsker, max_body_bytes: int, waiting: WaitingRoom
    ) -> None:
        self._wire = wire
        self._find = find
        self._max_body_bytes = max_body_bytes
        self._waiting = waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._serve(asker_of(scope, self._find), scope, receive, send)
        except ClientDisconnect:
            return
        except Refusal as refusal:
            await refused(refusal, self._wire.error)(scope, receive, send)

    async def _serve(self, asker: Asker, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with asker.serving(), _Noting(asker, self._wire.path), self._waiting.place():
                await self._call(asker, scope, receive, send)
        except Overdue:
            await connection_of(scope).hang_up()

    async def _call(self, asker: Asker, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        body = await read_body(
            headers, receive, max_bytes=self._max_body_bytes, setting="gateway.max_body_bytes"
        )
        path = self._wire.path
        ask = await self._read(asker, body)
        boarded = asker.board(ask, _ticket(headers, path, body), path=path)
        reader = Reader(connection_of(scope), send, boarded.flight)
        try:
            if ask.is_stream:
                await self._stream(asker, reader, boarded.ask, boarded.headers)
            else:
                await self._answer(reader, boarded.ask, boarded.headers)
        finally:
            asker.leave(boarded.flight, has_read=reader.has_read)
            reader.close()

    async def _read(self, asker: Asker, body: bytes) -> Ask:
        if len(body) > _LONG_BODY:
            return await asker.lane.in_thread(self._asked, body)
        return self._asked(body)

    def _asked(self, body: bytes) -> Ask:
        return self._wire.read(parse_body(body))

    async def _answer(self, reader: Reader, ask: Ask, headers: dict[str, str]) -> None:
        replies = await reader.replies()
        body = to_json(self._wire.write(ask, reader.flight.head, replies))
        length = {"content-length": str(len(body))}
        await reader.begin({**_JSON_HEADERS, **length, **headers, **_format_headers(replies)})
        await reader.end(body)
        reader.note_read()

    async def _stream(
        self, asker: Asker, reader: Reader, ask: Ask, headers: dict[str, str]
    ) -> None:
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
            asker.note_refused(refused_call(self._wire.path, refusal))
            await reader.write(writer.fail(refusal))
        await reader.end()

    async def _tell(self, reader: Reader, writer: EventWriter) -> None:
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
    if len(news) == 1:  # mostly
        yield news[0]
        return
    for (choice, kind), run in itertools.groupby(news, key=lambda one: (one[0], one[1].kind)):
        yield choice, Delta(kind=kind, text="".join(delta.text for _, delta in run))


def asker_of(scope: Scope, find: FindAsker) -> Asker:
    """Who sends a request, whose connection is known from then on. Raises Refusal as `find`."""
    asker = find(scope)
    connection_of(scope).know()
    return asker


def _ticket(headers: Mapping[bytes, bytes], path: str, body: bytes) -> Ticket:
    attempt = headers.get(_RETRY_COUNT, b"")
    if len(attempt) > _MAX_COUNT_DIGITS:
        raise bad_request(
            f"the header {_RETRY_COUNT.decode()} has {len(attempt)} characters; expected a count "
            f"of at most {_MAX_COUNT_DIGITS} digits"
        )
    digest = hashlib.blake2b(body, digest_size=16, person=path.encode()[-16:])
    return Ticket(
        body=digest.digest(),
        idempotency_key=headers.get(b"idempotency-key"),
        attempt=int(attempt) if attempt.isdigit() else None,
    )


def _format_headers(replies: Sequence[ChatReply]) -> dict[str, str]:
    checks = [reply.format_check for reply in replies if reply.format_check]
    return {"x-astuner-format": ", ".join(checks)} if checks else {}
