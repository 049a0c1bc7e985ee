"""The runner of episodes of this process, made by the first episode that an engine asks for."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from astuner.backbone.cluster.episodes import EpisodeRunner
from astuner.backbone.cluster.remote import find_hub
from astuner.engine.protocol import Engine
from astuner.errors import AstunerError
from astuner.inference.template import ChatTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHere:
    """What episodes need of the engine in this process."""

    engine: Engine
    tokenizer: Any
    """A tokenizer of transformers, with a chat template."""
    model: str
    """The folder of the model, or its name on the hub."""
    num_processes: int
    """That run episodes at the same time."""

    def make_template(self) -> ChatTemplate:
        """The tokenizer's, where a reply also ends at what the model's own settings name."""
        from astuner.models.end_ids import read_end_ids

        return ChatTemplate(self.tokenizer, extra_stop_ids=read_end_ids(self.model))


_runners: dict[int, asyncio.Task[EpisodeRunner]] = {}
"""By the event loop that each lives in."""


async def runner_here(find_engine: Callable[[], EngineHere]) -> EpisodeRunner:
    """Made by the first episode of this event loop; the others that begin with it wait."""
    key = id(asyncio.get_running_loop())
    if key not in _runners:
        _runners[key] = asyncio.create_task(_make_runner(find_engine))
    return await asyncio.shield(_runners[key])


async def _make_runner(find_engine: Callable[[], EngineHere]) -> EpisodeRunner:
    hub = find_hub()
    try:
        worker_run = await hub.worker_run.remote()
        run, here = worker_run.open(), find_engine()
        template = here.make_template()
        runner = EpisodeRunner(run, hub, here.engine, template, num_processes=here.num_processes)
        await runner.start()
    except AstunerError as error:
        await hub.fail.remote(error)
        raise
    return runner
