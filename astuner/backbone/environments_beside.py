"""Environment servers that start and end with the run: `env_url: embedded`.

One for each source of tasks that asks for it, in a process of its own. One that ends before the run
is not started again: its instances are lost, and why it ended would be too.
"""

import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import httpx

from astuner.backbone.run import Backbone, Run, RunResult
from astuner.config.schema import Settings
from astuner.env_service.server.beside import server_beside
from astuner.env_service.server.world import ServerSettings, World
from astuner.env_service.service_address import EMBEDDED
from astuner.run_dir import naming_the_file
from astuner.task_reader.sources import task_sources

_CLUSTERED = ("verl", "trinity")
_TTL_SECONDS = 600.0
"""How long an instance outlives a worker process that was killed."""


class WithEnvironments:
    """A backbone with the servers beside it that its run asks for."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    async def run(self, run: Run) -> RunResult:
        async with environments_beside(run) as served:
            return await self._backbone.run(served)


@contextlib.asynccontextmanager
async def environments_beside(run: Run) -> AsyncIterator[Run]:
    """Start what the settings call embedded; gives the run with the addresses in their place.

    Processes on other machines reach them too, with a token that is made here and stands in the
    address. Raises ConfigError for an environment that cannot be served.
    """
    settings = run.settings
    async with contextlib.AsyncExitStack() as stack:
        for name, source in task_sources(settings.task_reader).items():
            if source.type == "env_service" and source.settings["env_url"] == EMBEDDED:
                url = await stack.enter_async_context(_served(run, source.settings))
                settings = _with_section(settings, name, {**source.settings, "env_url": url})
        yield replace(run, settings=settings)


@contextlib.asynccontextmanager
async def _served(run: Run, section: Mapping[str, Any]) -> AsyncIterator[str]:
    env_type, token = section["env_type"], secrets.token_urlsafe(24)
    world = World(
        name=env_type, target=env_type, options=section["options"], search_dirs=run.search_dirs
    )
    settings = ServerSettings(
        host="0.0.0.0" if _has_workers_elsewhere(run) else "127.0.0.1",
        port=0,
        token=token,
        capacity=max(run.settings.rollout.max_env_worker, run.settings.debug.debug_max_parallel),
        ttl_seconds=_TTL_SECONDS,
    )
    file_name = re.sub(r"[^\w.]+", "_", f"environment_{env_type}")
    path = run.run_dir.root / "logs" / f"{file_name}.log"
    run.console.say(f"starting environment {env_type}")

    def tell_of_death(code: int) -> None:
        run.console.warn(
            f"the environment server beside this run has ended (code {code}); {path} has what it "
            f"said. Episodes of {env_type} fail from now on"
        )

    with naming_the_file(path):
        path.parent.mkdir(exist_ok=True)
        log = path.open("ab")
    with log:
        async with server_beside([world], settings, log=log, on_death=tell_of_death) as address:
            run.console.say(f"environment {env_type} at {address}")
            yield str(httpx.URL(address).copy_with(username=EMBEDDED, password=token))


def _has_workers_elsewhere(run: Run) -> bool:
    """Whether episodes may run on other machines."""
    is_joined = run.ray_address is not None or not run.with_ray
    is_clustered = run.settings.backbone in _CLUSTERED
    return is_clustered and (run.settings.trainer_common.nnodes > 1 or is_joined)


def _with_section(settings: Settings, source: str, section: Mapping[str, Any]) -> Settings:
    """The settings, with that section of env_service in the source of tasks of that name."""
    reader = settings.task_reader
    if source == "":
        reader = _with_env_service(reader, section)
    else:
        sources = reader.mixture.sources
        changed = {**sources, source: _with_env_service(sources[source], section)}
        mixture = reader.mixture.model_copy(update={"sources": changed})
        reader = reader.model_copy(update={"mixture": mixture})
    return settings.model_copy(update={"task_reader": reader})


def _with_env_service(reader: Any, section: Mapping[str, Any]) -> Any:
    own = reader.env_service.model_copy(update=section)
    return reader.model_copy(update={"env_service": own})
