"""The environments of a run: which kind each source of tasks has, made from its settings.

Each process that runs episodes makes its own; they reach the same servers.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astuner.backbone.run import Run
from astuner.config.sections.sandbox import SandboxSettings
from astuner.env_service.client import EnvServiceEnvironments
from astuner.env_service.harbor.environments import HarborEnvironments
from astuner.env_service.instance import Environments
from astuner.env_service.openenv import OpenEnvEnvironments
from astuner.env_service.ors import OrsEnvironments
from astuner.task_reader.sources import task_sources


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentNeeds:
    """What a kind of environments may need beside its own section."""

    sandbox: SandboxSettings
    search_dirs: tuple[Path, ...]
    """Where files that the settings name are looked for."""


MakeEnvironments = Callable[[Mapping[str, Any], EnvironmentNeeds], Environments]

ENVIRONMENTS: Mapping[str, MakeEnvironments] = {
    "env_service": lambda section, _needs: EnvServiceEnvironments.from_settings(section),
    "openenv": lambda section, _needs: OpenEnvEnvironments.from_settings(section),
    "ors": lambda section, _needs: OrsEnvironments.from_settings(section),
    "harbor": lambda section, needs: HarborEnvironments.from_settings(section, needs.sandbox),
}
"""By the `task_reader.type` of a source; its section is given as plain values."""


def make_environments(run: Run) -> Mapping[str, Environments]:
    """By `Task.source`; sources whose tasks need none are left out."""
    needs = EnvironmentNeeds(sandbox=run.settings.sandbox, search_dirs=run.search_dirs)
    return {
        name: ENVIRONMENTS[source.type](source.settings, needs)
        for name, source in task_sources(run.settings.task_reader).items()
        if source.type in ENVIRONMENTS
    }


@contextlib.asynccontextmanager
async def open_environments(run: Run) -> AsyncIterator[Mapping[str, Environments]]:
    """The same, closed at the end."""
    environments = make_environments(run)
    try:
        yield environments
    finally:
        for one in environments.values():
            await one.close()
