"""Objects over a stream between two processes of one run, each as its length and its pickle.

Between our own processes only: whoever can write to such a stream decides what is run here.
"""

import asyncio
import pickle
import struct
from collections.abc import Callable
from typing import Any

_LENGTH = struct.Struct("!Q")


def framed(message: object) -> bytes:
    """Raises what pickle raises for an object that it cannot take."""
    pickled = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(pickled)) + pickled


class Frames(asyncio.Protocol):
    """One end of such a stream, in an event loop."""

    def __init__(
        self, on_message: Callable[[Any], None], on_lost: Callable[[], None] = lambda: None
    ) -> None:
        """`on_message` is called for each object as it comes, `on_lost` once no more can come."""
        self.on_message = on_message
        self._on_lost = on_lost
        self._transport: asyncio.WriteTransport | None = None
        self._received = bytearray()
        self._unsent = bytearray()
        """Until there is a connection."""

    def send(self, message: object) -> None:
        """Does not wait; what is sent once the other end is gone is lost.

        Raises what pickle raises for an object that it cannot take.
        """
        if self._transport is None:
            self._unsent += framed(message)
        else:
            self._transport.write(framed(message))

    def close(self) -> None:
        """Once all that was sent has left."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):  # a pipe may be for reading only
            self._transport = transport
            transport.write(self._unsent)

    def data_received(self, data: bytes) -> None:
        self._received += data
        start = 0
        while len(self._received) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received, start)
            begin = start + _LENGTH.size
            if len(self._received) < begin + length:
                break
            start = begin + length
            self.on_message(pickle.loads(self._received[begin:start]))
        del self._received[:start]

    def connection_lost(self, _error: Exception | None) -> None:
        self._on_lost()
