"""A server of `astuner/serving` alone, and clients that write it whatever bytes they like."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from astuner.serving.answer import json_answer
from astuner.serving.connection import Connection, connection_of
from astuner.serving.limits import ConnectionLimits
from astuner.serving.server import Server

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
KNOWN = b"GET / HTTP/1.1\r\nhost: x\r\nx-known: yes\r\n\r\n"
LIMITS = ConnectionLimits(
    max_connections=100,
    newcomer_seconds=0.0,
    head_seconds=30.0,
    rest_seconds=30.0,
    farewell_seconds=30.0,
    max_head_bytes=2000,
    max_header_lines=20,
)


@dataclass
class Echo:
    """Says which bodies it got; `/early` answers before the body has come."""

    connections: list[Connection] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    num_left: int = 0
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()
        methods = ["GET", "POST"]
        self.app = Starlette(
            routes=[
                Route("/", self.answer, methods=methods),
                Route("/early", self.answer_early, methods=methods),
            ]
        )

    async def answer(self, request: Request) -> Response:
        connection = connection_of(request.scope)
        self.connections.append(connection)
        if "x-known" in request.headers:
            connection.know()
        try:
            self.bodies.append(await request.body())
        except ClientDisconnect:
            self.num_left += 1
            raise
        await self.may_answer.wait()
        return json_answer({"size": len(self.bodies[-1])})

    async def answer_early(self, request: Request) -> Response:
        headers = {"connection": "close"} if "x-close" in request.headers else {}
        return json_answer({"early": True}, headers=headers)


@dataclass(frozen=True, slots=True)
class Client:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        async with asyncio.timeout(60):
            head = await self.reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            sizes = [line.split(b":")[1] for line in lines if line.startswith(b"content-length")]
            body = await self.reader.readexactly(int(sizes[0]) if sizes else 0)
        return int(head.split(b" ")[1]), body

    async def ask(self, data: bytes) -> int:
        await self.send(data)
        return (await self.answer())[0]

    async def end(self) -> bytes:
        """What still comes until the server closes, or resets, the connection."""
        async with asyncio.timeout(60):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


class RawServer:
    """An `Echo` that is served."""

    def __init__(self, server: Server, echo: Echo) -> None:
        self.server = server
        self.echo = echo
        self._clients: list[Client] = []

    async def client(self) -> Client:
        async with asyncio.timeout(60):
            opened = await asyncio.open_connection("127.0.0.1", self.server.port)
        self._clients.append(Client(*opened))
        return self._clients[-1]

    async def ask(self, data: bytes) -> int:
        """The status that a client of its own gets for these bytes."""
        return await (await self.client()).ask(data)

    def close(self) -> None:
        for client in self._clients:
            client.writer.close()


@contextlib.asynccontextmanager
async def raw_server(**limits: float) -> AsyncIterator[RawServer]:
    echo = Echo()
    server = Server(echo.app, setting="echo", limits=replace(LIMITS, **limits))
    raw = RawServer(server, echo)
    try:
        yield raw
    finally:
        echo.may_answer.set()
        raw.close()
        await server.stop()
