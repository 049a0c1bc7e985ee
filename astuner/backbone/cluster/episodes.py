"""Runs episodes in a worker process of the cluster, against the engine that serves it there.

One for each process: it has the workflow, the judge, a gateway and the bound on episodes at once.
"""

import asyncio
import json
import math
from contextlib import ExitStack
from dataclasses import replace

from astuner.backbone.assemble import (
    lock_supervised_for,
    make_episode_settings,
    make_gateway,
    make_judging,
)
from astuner.backbone.chats import make_token_chat
from astuner.backbone.cluster.hub_handle import HubHandle
from astuner.backbone.environments import make_environments
from astuner.backbone.run import Run
from astuner.engine.protocol import Engine
from astuner.errors import AstunerError, ConfigError
from astuner.inference.request import Chat
from astuner.inference.template import ChatTemplate
from astuner.rollout.episode import run_attempt
from astuner.rollout.targets import TargetNote, TargetNotes
from astuner.rollout.threads import DaemonThreads
from astuner.rollout.watchdog import loop_watchdog
from astuner.run_dir import json_line
from astuner.trajectory.attempt import Attempt
from astuner.trajectory.episode import Episode
from astuner.trajectory.record import (
    attempt_to_record,
    episode_from_record,
    episode_to_record,
)
from astuner.trajectory.recorder import Recorder
from astuner.types import Task, WorkflowTask


class EpisodeRunner:
    """Runs the episodes that an engine's own loop asks for, and brings them to the hub."""

    def __init__(
        self,
        run: Run,
        hub: HubHandle,
        engine: Engine,
        template: ChatTemplate,
        *,
        num_processes: int,
    ) -> None:
        """`num_processes` run episodes at the same time and share rollout.max_env_worker."""
        rollout = run.settings.rollout
        self._run, self._hub = run, hub
        self._gateway = make_gateway(run)
        self._lasting = ExitStack()
        self._targets = TargetNotes()
        settings = make_episode_settings(
            run,
            make_token_chat(run, engine, template),
            self._gateway,
            make_environments(run),
            timeout_seconds=rollout.episode_timeout_seconds,
            make_reference_chat=_no_reference,
        )
        self._settings = replace(settings, target_watch=self._targets)
        self._judging = make_judging(run)
        max_parallel = math.ceil(rollout.max_env_worker / num_processes)
        self._running, self._judged = (asyncio.Semaphore(max_parallel) for _ in range(2))

    async def start(self) -> None:
        """Once, in the event loop of the episodes; all of it lives as long as the process.

        Raises AstunerError where the judge cannot be made ready.
        """
        asyncio.get_running_loop().set_default_executor(DaemonThreads())
        await self._gateway.__aenter__()
        self._lasting.enter_context(lock_supervised_for(self._run, log_file=None))
        self._lasting.enter_context(
            loop_watchdog(
                self._run.settings.rollout.episode_timeout_seconds / 4,
                find_port=lambda: self._gateway.port,
                on_stuck=self._hub.fail.remote,
            )
        )
        await self._judging.prepare_alone()  # the hub asks those that compare

    async def run(
        self, task: Task, *, group: str, step: int, attempt: int, is_validation: bool
    ) -> Episode:
        """Run one episode; it may have failed. `group` names its task in its step.

        Of an attempt that is run again, the episode that the hub had first is returned: it counts.
        Raises AstunerError where the whole run has to end; the hub knows it then.
        """
        kind = "validation" if is_validation else "step"
        plan = WorkflowTask(
            task=task,
            episode_id=f"{kind}{step}-{group}-{attempt}",
            step=step,
            attempt=attempt,
            is_validation=is_validation,
        )
        try:
            async with self._running:
                ended = await run_attempt(plan, self._settings)
            targets = self._targets.take()
            async with self._judged:
                episode = await self._judging.judge_alone(ended)
        except AstunerError as error:
            await self._hub.fail.remote(error)
            raise
        if episode is None:
            return await self._compared(ended, group=group, targets=targets)
        line = json_line(episode_to_record(episode), where=f"episode {episode.episode_id}")
        known = await self._hub.add_episode.remote(line, group=group, targets=targets)
        return episode if known is None else _episode(known)

    async def _compared(
        self, attempt: Attempt, *, group: str, targets: list[TargetNote]
    ) -> Episode:
        """The hub has the attempts of all processes, so it asks the judge that compares them."""
        line = json_line(attempt_to_record(attempt), where=f"episode {attempt.episode_id}")
        judged = await self._hub.compare.remote(line, group=group, targets=targets)
        return _episode(judged)


def _episode(line: bytes) -> Episode:
    return episode_from_record(json.loads(line))


def _no_reference(_recorder: Recorder, _task: WorkflowTask) -> Chat:
    raise ConfigError(
        "debug_model 'reference', the frozen starting weights, is served by the backbones local "
        "and debug only: this cluster holds no second model. Serve it yourself, and name it by "
        "rollout.untrained_model.base_url and rollout.untrained_model.model"
    )
