"""How much a client may send, and how many may wait at a time.

Whoever sets a bound names the setting that holds it, so that a refusal can say what to change.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from astuner.serving.refusal import Refusal


async def read_body(
    headers: Mapping[bytes, bytes], receive: Receive, *, max_bytes: int, setting: str
) -> bytes:
    """The whole body. Raises Refusal 413 as soon as it is too long, ClientDisconnect."""
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_long(max_bytes, setting)
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise _too_long(max_bytes, setting)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_long(max_bytes: int, setting: str) -> Refusal:
    return Refusal(
        413, f"the body is longer than {max_bytes} bytes ({setting})", code="request_too_large"
    )


class WaitingRoom:
    """Bounds the requests that wait for an answer."""

    def __init__(self, max_requests: int, *, setting: str) -> None:
        self._max_requests = max_requests
        self._setting = setting
        self.num_requests = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Raises Refusal 503 when all places are taken."""
        if self.num_requests >= self._max_requests:
            raise Refusal(
                503,
                f"{self._max_requests} requests wait for an answer already ({self._setting}); ask "
                "again in a second",
                code="too_many_waiting",
                headers={"retry-after": "1"},
            )
        self.num_requests += 1
        try:
            yield
        finally:
            self.num_requests -= 1
