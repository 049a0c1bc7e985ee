"""One client that waits for a flight: what it is told of, and what it is sent.

Owns no format; it sends what it is given.
"""

from starlette.requests import ClientDisconnect
from starlette.types import Send

from astuner.gateway.flights import Flight
from astuner.gateway.refusals import refusal_of
from astuner.inference.request import ChatReply
from astuner.serving.connection import Connection


class Reader:
    """To be closed. Waiting raises ClientDisconnect once the client is gone."""

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
