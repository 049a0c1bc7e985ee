"""An environment server in a running event loop: what it is made of, from its start to its end."""

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING

from astuner.env_service.server.pool import EnvironmentPool
from astuner.env_service.server.world import ServerSettings, World
from astuner.errors import ConfigError
from astuner.serving.limits import max_open_files

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from astuner.env_service.server.instances import Instances

_SWEEPS_PER_TTL = 10
_MAX_SWEEP_SECONDS = 5.0
_OTHER_FILES = 32


@contextlib.asynccontextmanager
async def serve_environments(
    worlds: Sequence[World], settings: ServerSettings
) -> AsyncIterator[str]:
    """Serve them while this is open; gives the address, http://127.0.0.1:8080.

    To be opened in the thread that lives as long as the server. Raises ConfigError for what cannot
    be imported, for an address that is taken, and where others could come in without a token.
    """
    # uvicorn is imported where something is served.
    from astuner.env_service.server.app import EnvServiceApp, Versioned, error_body
    from astuner.env_service.server.instances import Instances
    from astuner.serving.hosts import HostCheck, own_names
    from astuner.serving.server import Server

    _check(worlds, settings)
    pools = {world.name: EnvironmentPool(world, settings) for world in worlds}
    instances = Instances(pools, settings)
    async with contextlib.AsyncExitStack() as stack:
        for pool in pools.values():
            stack.push_async_callback(pool.close)
        await _started(pools.values())
        stack.push_async_callback(instances.close)
        app: ASGIApp = EnvServiceApp(instances, settings)
        if settings.token is None:  # which no page of a browser has
            app = HostCheck(app, names=own_names(), shape=error_body)
        server = Server(
            Versioned(app),
            setting="env serve",
            host=settings.host,
            port=settings.port,
            shape=error_body,
        )
        stack.push_async_callback(server.stop)
        sweeping = asyncio.create_task(_sweep(instances, settings.ttl_seconds))
        stack.callback(sweeping.cancel)
        yield server.address


async def _started(pools: Iterable[EnvironmentPool]) -> None:
    """All at once; raises the first error."""
    results = await asyncio.gather(*(pool.start() for pool in pools), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def _sweep(instances: "Instances", ttl_seconds: float) -> None:
    while True:
        await asyncio.sleep(min(_MAX_SWEEP_SECONDS, ttl_seconds / _SWEEPS_PER_TTL))
        instances.expire()


def _check(worlds: Sequence[World], settings: ServerSettings) -> None:
    names = [world.name for world in worlds]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"two environments are called {', '.join(twice)}; clients tell them apart by their "
            "names, so give each its own, as NAME=module->Class"
        )
    num_processes = settings.capacity + settings.num_spares * len(worlds)
    if num_processes + _OTHER_FILES > max_open_files() // 2:  # the other half is for clients
        raise ConfigError(
            f"--capacity {settings.capacity}: each instance takes two of the {max_open_files()} "
            "files that this process may open; start fewer, or allow more by ulimit -n in the shell"
        )
    if settings.token is None and not _is_private(settings.host):
        raise ConfigError(
            f"--host {settings.host}: others reach the server there, and could run what they like "
            "in its environments; set the environment variable ENV_SERVICE_TOKEN to a long secret, "
            "which clients then have to show"
        )


def _is_private(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
