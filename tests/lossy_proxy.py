"""A network that loses answers: between a client over HTTP and a server in the same loop."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import urlsplit


class LossyProxy:
    """Hands on requests, counts them by path, and keeps answers back as it is told."""

    def __init__(self, address: str) -> None:
        self._server = urlsplit(address)
        self.asked: Counter[str] = Counter()
        self.to_lose: Counter[str] = Counter()
        """Of the next answers to a path, so many are lost; the server has acted then."""

    async def serve(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        from_server, to_server = await asyncio.open_connection(
            self._server.hostname, self._server.port
        )
        try:
            while request := await _message(from_client):
                path = request.split(b" ")[1].decode()
                self.asked[path] += 1
                to_server.write(request)
                answer = await _message(from_server)
                if self.to_lose[path]:
                    self.to_lose[path] -= 1
                    return
                to_client.write(answer)
                await to_client.drain()
        finally:
            to_server.close()
            to_client.close()


async def _message(stream: asyncio.StreamReader) -> bytes:
    """One request or answer, with a Content-Length or none; empty at the end."""
    try:
        head = await stream.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    lines = head.lower().split(b"\r\n")
    lengths = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")]
    return head + await stream.readexactly(sum(lengths))


@contextlib.asynccontextmanager
async def lossy_proxy(address: str) -> AsyncIterator[tuple[str, LossyProxy]]:
    """Its address, and the proxy."""
    proxy = LossyProxy(address)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", proxy
    finally:
        server.close()
