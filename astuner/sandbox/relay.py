"""The one way out of a sandbox: to the episode's gateway, by connections that are accepted here.

Inside, `listen.py` gives out a socket that listens there; its connections are led to the gateway.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self
from urllib.parse import urlsplit

from astuner.errors import SandboxError

logger = logging.getLogger(__name__)

_OWN = ip_address("127.0.0.1")
_MAX_CONNECTIONS = 64
_CHUNK_BYTES = 64 * 1024
_LOWEST_PORT = 1024
"""The lowest that a user without capabilities may listen at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPlace:
    """Where a gateway listens, and under which name the inside knows it."""

    host: str
    port: int

    @classmethod
    def of(cls, base_url: str) -> Self:
        parts = urlsplit(base_url)
        if parts.scheme != "http" or parts.hostname is None or parts.port is None:
            raise SandboxError(
                f"sandbox: gateway: {base_url!r} is no http address with a port; give the "
                "base_url of model_tuner.as_oai_baseurl_apikey()"
            )
        if parts.port < _LOWEST_PORT or not _can_be_own(parts.hostname):
            raise SandboxError(
                f"sandbox: gateway: {base_url!r} cannot stand for itself inside, which takes a "
                f"name or 127.0.0.1, and a port from {_LOWEST_PORT} on; set "
                "astuner.gateway.advertised_host to a name"
            )
        return cls(host=parts.hostname, port=parts.port)


def _can_be_own(host: str) -> bool:
    try:
        return ip_address(host) == _OWN
    except ValueError:
        return True


@asynccontextmanager
async def relayed(place: GatewayPlace | None) -> AsyncIterator[socket.socket | None]:
    """Lead connections to the place from whatever listening socket is sent by the one it gives."""
    if place is None:
        yield None
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        task = asyncio.create_task(_serve(ours, place))
        try:
            yield theirs
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.warning("sandbox gateway=%s lost: %s", place, error)


async def _serve(control: socket.socket, place: GatewayPlace) -> None:
    await _until_readable(control)
    _, fds, _, _ = socket.recv_fds(control, 1, 1)
    if not fds:
        return
    room = asyncio.Semaphore(_MAX_CONNECTIONS)
    with socket.socket(fileno=fds[0]) as listener:
        listener.setblocking(False)
        async with asyncio.TaskGroup() as group:
            while True:
                await room.acquire()
                connection, _ = await asyncio.get_running_loop().sock_accept(listener)
                group.create_task(_lead(connection, place)).add_done_callback(
                    lambda _: room.release()
                )


async def _until_readable(control: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(control.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(control.fileno())


async def _lead(connection: socket.socket, place: GatewayPlace) -> None:
    writers: list[asyncio.StreamWriter] = []
    try:
        inner_reader, inner_writer = await asyncio.open_connection(sock=connection)
        writers.append(inner_writer)
        reader, writer = await asyncio.open_connection(place.host, place.port)
        writers.append(writer)
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(inner_reader, writer))
            group.create_task(_copy(reader, inner_writer))
        for writer in writers:
            writer.close()
            await writer.wait_closed()
    except* OSError:
        pass  # either side may be gone at any time, of which the other learns by the same
    finally:
        for writer in writers:
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
