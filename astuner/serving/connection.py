"""The connection of a client: whether it is still there, and how to end it.

ASGI would tell of a client that has gone to a task that waits for it, one for each call, and knows
no way to hang up. Owns no HTTP.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

CONNECTION = "connection"
"""Its place in the state of an ASGI scope."""


class Connection:
    """Made by the server for each socket that it accepts."""

    def __init__(self, transport: asyncio.Transport, *, on_known: Callable[[], None]) -> None:
        """`on_known` is called when its client has shown that it may ask."""
        self.is_lost = False
        self._transport = transport
        self._on_known = on_known
        self._is_known = False
        self._watchers: set[Callable[[], None]] = set()

    def know(self) -> None:
        """Its client has shown that it may ask: it keeps its place while a call is under way."""
        if not self._is_known:
            self._is_known = True
            self._on_known()

    def watch(self, tell: Callable[[], None]) -> None:
        """`tell` is called when the client goes, or has gone; to be given back with `unwatch`."""
        self._watchers.add(tell)
        if self.is_lost:
            tell()

    def unwatch(self, tell: Callable[[], None]) -> None:
        self._watchers.discard(tell)

    def lose(self) -> None:
        """The server says that the socket is closed."""
        self.is_lost = True
        for tell in self._watchers:
            tell()

    async def hang_up(self) -> None:
        """Close the socket at once, whatever waits to be sent; the server knows it afterwards."""
        self._transport.abort()
        await asyncio.sleep(0)


class LingeringTransport:
    """A transport that closes without cutting off what it has written.

    A socket that is closed while its client still sends is reset, and the client may never read
    its answer. So where more is to come, closing says that nothing further is written, and waits a
    while for the client to close.
    """

    def __init__(
        self, transport: asyncio.Transport, *, seconds: float, expects_more: Callable[[], bool]
    ) -> None:
        self.write = transport.write
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self._transport = transport
        self._seconds = seconds
        self._expects_more = expects_more
        self._is_closing = False

    def is_closing(self) -> bool:
        return self._is_closing or self._transport.is_closing()

    def close(self) -> None:
        """What comes from now on is to be thrown away."""
        if self.is_closing():
            return
        self._is_closing = True
        if not self._expects_more():
            self._transport.close()
            return
        try:
            self._transport.resume_reading()
            self._transport.write_eof()
        except OSError:  # the client has reset it
            self._transport.abort()
        asyncio.get_running_loop().call_later(self._seconds, self._transport.abort)


def connection_of(scope: Mapping[str, Any]) -> Connection:
    """That of the client whose request the ASGI scope describes."""
    return scope["state"][CONNECTION]
