"""Objects over a stream between two processes of one run, each as its length and its pickle.

Between our own processes only: whoever can write to such a stream decides what is run here.
"""

import asyncio
import logging
import pickle
import struct
from collections.abc import Callable, Iterator
from typing import Any

logger = logging.getLogger(__name__)

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
        """`on_message` is called for each object as it comes, `on_lost` once no more can come: the
        other end is gone, or sent what cannot be read here."""
        self._on_message = on_message
        self._on_lost = on_lost
        self._transport: asyncio.BaseTransport | None = None
        self._received = bytearray()
        self._unsent = bytearray()
        """Until there is a connection."""

    def send(self, message: object) -> None:
        """Does not wait; what is sent once the other end is gone is lost.

        Raises what pickle raises for an object that it cannot take.
        """
        frame = framed(message)
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.write(frame)
        else:
            self._unsent += frame

    def close(self) -> None:
        """Once all that was sent has left."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if isinstance(transport, asyncio.WriteTransport):  # a pipe may be for reading only
            transport.write(self._unsent)

    def data_received(self, data: bytes) -> None:
        self._received += data
        for frame in self._whole_frames():
            try:
                message = pickle.loads(frame)
            except Exception:  # a class of a user's, which this process does not know
                logger.exception("a message of another process cannot be read")
                self.close()
                return
            self._on_message(message)

    def _whole_frames(self) -> Iterator[bytes]:
        while len(self._received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received)
            end = _LENGTH.size + length
            if len(self._received) < end:
                return
            frame = bytes(self._received[_LENGTH.size : end])
            del self._received[:end]
            yield frame

    def connection_lost(self, _error: Exception | None) -> None:
        self._on_lost()
