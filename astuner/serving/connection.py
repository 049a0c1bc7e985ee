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

    def __init__(self, transport: asyncio.Transport) -> None:
        self.is_lost = False
        self._transport = transport
        self._watchers: set[Callable[[], None]] = set()

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


def connection_of(scope: Mapping[str, Any]) -> Connection:
    """That of the client whose request the ASGI scope describes."""
    return scope["state"][CONNECTION]
