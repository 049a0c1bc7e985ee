"""An environment server in a process of its own that lives no longer than ours.

What is to be served goes to its standard input as one line of JSON, and back comes one line,
{"address"} or {"error"}. It ends when its input ends, or whoever started it.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from astuner.env_service.server.world import PACKAGE, ServerSettings, World
from astuner.errors import AstunerError, BackboneError, ConfigError

_COMMAND = """\
import sys
sys.path.append(sys.argv[1])
from astuner.env_service.server.beside import main
sys.exit(main())
"""
_START_SECONDS = 60.0
"""Beside the import of environments."""
_END_SECONDS = 30.0
_PARENT_SECONDS = 2.0


@contextlib.asynccontextmanager
async def server_beside(
    worlds: Sequence[World],
    settings: ServerSettings | None = None,
    *,
    log: IO[bytes] | None = None,
    on_death: Callable[[int], object] = lambda _: None,
) -> AsyncIterator[str]:
    """Serve them while this is open, at any free port of this machine unless the settings name
    one; gives the address, http://127.0.0.1:40123.

    Its standard error goes to `log`, or is ours. `on_death` is told the exit code of one that ends
    before this does. Raises ConfigError for what cannot be served.
    """
    settings = settings or ServerSettings(port=0)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _COMMAND, str(PACKAGE.parent)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
        start_new_session=True,  # Ctrl-C in a terminal is for us, who then end it
    )
    watching = None
    try:
        address = await _address(process, worlds, settings)
        watching = asyncio.create_task(_watch(process, on_death))
        yield address
    finally:
        if watching is not None:
            watching.cancel()
        await asyncio.shield(_end(process))


async def _address(
    process: asyncio.subprocess.Process, worlds: Sequence[World], settings: ServerSettings
) -> str:
    assert process.stdin is not None and process.stdout is not None
    served = {
        "worlds": [_plain(world) for world in worlds],
        "settings": dataclasses.asdict(settings),
    }
    process.stdin.write(json.dumps(served).encode() + b"\n")
    timeout_seconds = settings.reset_timeout_seconds + _START_SECONDS
    try:
        async with asyncio.timeout(timeout_seconds):
            line = await process.stdout.readline()
    except TimeoutError:
        raise BackboneError(
            f"the environment server beside this run was not ready after {timeout_seconds:g} s; "
            "see what it wrote on standard error"
        ) from None
    if not line:
        raise BackboneError(
            "the environment server beside this run ended before it was ready, with exit code "
            f"{await process.wait()}; see what it wrote on standard error"
        )
    said = json.loads(line)
    if "error" in said:
        raise ConfigError(said["error"])
    return said["address"]


async def _watch(process: asyncio.subprocess.Process, on_death: Callable[[int], object]) -> None:
    on_death(await process.wait())


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(_END_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _plain(world: World) -> dict[str, Any]:
    folders = [str(folder.absolute()) for folder in world.search_dirs]
    return {**dataclasses.asdict(world), "options": dict(world.options), "search_dirs": folders}


def _world(plain: Mapping[str, Any]) -> World:
    return World(**{**plain, "search_dirs": tuple(map(Path, plain["search_dirs"]))})


def main() -> int:
    """In the process of the server."""
    from astuner import log

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    served = json.loads(sys.stdin.buffer.readline())
    with log.install(None, "WARNING"):
        try:
            asyncio.run(_serve(map(_world, served["worlds"]), ServerSettings(**served["settings"])))
        except AstunerError as error:
            _say({"error": str(error)})
            return 1
    return 0


async def _serve(worlds: Any, settings: ServerSettings) -> None:
    from astuner.env_service.server.serve import serve_environments

    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    async with serve_environments(list(worlds), settings) as address:
        _say({"address": address})
        parent = os.getppid()
        while not ended.is_set() and os.getppid() == parent:
            # Our input does not end with the parent where another process has inherited its end.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _PARENT_SECONDS)


def _say(said: Mapping[str, str]) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
