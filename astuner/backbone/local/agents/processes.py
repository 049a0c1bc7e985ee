"""Processes beside the command in which agents run, while the model stays in the command's own.

An agent's code is Python, and one process runs it on one processor, the engine's thread included:
with many agents of several turns a GPU waits for it. What crosses is what crosses the seam to any
engine, token ids and completions, and a finished attempt; judging stays here.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping

from astuner.backbone.local.agents.link import AgentProcess, NotBegun, ProcessGone
from astuner.backbone.local.agents.messages import Ended, Serve
from astuner.backbone.run import Run
from astuner.backbone.worker_run import WorkerRun
from astuner.engine.protocol import Engine
from astuner.errors import AstunerError, BackboneError, ConfigError, WorkflowError
from astuner.llm import count_of_another
from astuner.rollout.episode import EpisodeSettings
from astuner.trajectory.attempt import Attempt, Failure
from astuner.types import WorkflowTask

logger = logging.getLogger(__name__)

_LEAVE_SECONDS = 5.0
"""For processes that are told to leave."""
_MOST_NEVER_READY = 3
"""In a row: then the next one would be ended too."""


@contextlib.asynccontextmanager
async def open_agent_processes(run: Run) -> "AsyncIterator[AgentProcesses | None]":
    """As many as rollout.num_workers says, getting ready meanwhile; None where that is 0.

    Raises ConfigError where the gateway cannot have an address in each of them.
    """
    num_processes = run.settings.rollout.num_workers
    if num_processes == 0:
        yield None
        return
    if run.settings.gateway.port:
        raise ConfigError(
            f"gateway.port is {run.settings.gateway.port}, but each of the "
            f"rollout.num_workers={num_processes} processes has a gateway of its own; set the port "
            "to 0, any that is free, or rollout.num_workers to 0"
        )
    processes = AgentProcesses(run, num_processes)
    try:
        processes.start()
        await processes.linked()
        yield processes
    finally:
        rest = run.grace.rest_seconds if run.grace else _LEAVE_SECONDS
        await processes.end(within=min(_LEAVE_SECONDS, rest))


class AgentProcesses:
    """Runs attempts in them. One that ends by itself costs its attempts, and another is started."""

    def __init__(self, run: Run, num_processes: int) -> None:
        self._worker = WorkerRun.of(run)
        self._room = math.ceil(run.settings.rollout.max_env_worker / num_processes)
        self._serve: Serve | None = None
        self._engines: Mapping[str, Engine] = {}
        self._is_ending = False
        self._num_never_ready = 0
        """That were ended before they were ready, one after the other."""
        self._num_processes = num_processes
        self._processes: list[AgentProcess] = []

    def start(self) -> None:
        """To be called in the event loop of the run."""
        for _ in range(self._num_processes):
            self._start_one()

    async def linked(self) -> None:
        """From here on they get ready also while this event loop is blocked."""
        await asyncio.gather(*(process.linked() for process in self._processes))

    def serve(self, model: str, engines: Mapping[str, Engine]) -> None:
        """From now on these engines, by their names, answer; `model` has their tokenizer."""
        self._engines = engines
        self._serve = Serve(model=model)
        for process in self._processes:
            process.send(self._serve)

    async def run(self, plan: WorkflowTask, settings: EpisodeSettings) -> Attempt:
        """As `run_attempt`, in one of the processes, which have made settings of their own.

        Raises what ends the run. An attempt whose process ends has failed.
        """
        started = time.monotonic()
        try:
            ended = await self._run(plan)
        except ProcessGone as error:
            return _lost(plan, error, seconds=time.monotonic() - started)
        count_of_another(ended.usage)
        if isinstance(ended.result, AstunerError):
            raise ended.result
        assert ended.result is not None, "an attempt that was cancelled has no end here"
        for targets, agents in ended.targets:
            settings.target_watch.note(targets, agents)
        return ended.result

    async def end(self, *, within: float) -> None:
        """All of them, in order, and by force after so many seconds."""
        self._is_ending = True
        await asyncio.gather(*(process.end(within=within) for process in self._processes))

    async def _run(self, plan: WorkflowTask) -> Ended:
        while not self._is_ending:
            with contextlib.suppress(NotBegun):
                return await self._choose(plan).run(plan)
        raise ProcessGone("the run ends, and with it its processes of agents")

    def _choose(self, plan: WorkflowTask) -> AgentProcess:
        """Attempts at one task share what is made of its prompt, so the process that has one is
        taken while it has room; else whichever has least to do."""
        if not self._processes:
            raise BackboneError(
                f"no process of agents is left: {self._num_never_ready} in a row were ended before "
                "they were ready, or none could be started; see run.log, free memory on this "
                "machine, or lower rollout.num_workers"
            )
        home = next((p for p in self._processes if p.has_attempt_at(plan.task)), None)
        if home is not None and home.num_running < self._room:
            return home
        return min(self._processes, key=lambda process: process.num_running)

    def _start_one(self) -> None:
        process = AgentProcess(self._worker, engines=lambda: self._engines, on_gone=self._replace)
        self._processes.append(process)
        if self._serve is not None:
            process.send(self._serve)

    def _replace(self, process: AgentProcess) -> None:
        """One has ended that nobody asked to."""
        self._processes.remove(process)
        self._num_never_ready = 0 if process.was_ready else self._num_never_ready + 1
        if self._is_ending or self._num_never_ready >= _MOST_NEVER_READY:
            return
        try:
            self._start_one()
        except BackboneError as error:
            logger.warning("%s", error)


def _lost(plan: WorkflowTask, gone: ProcessGone, *, seconds: float) -> Attempt:
    """What is known of an attempt whose process has ended."""
    return Attempt(
        episode_id=plan.episode_id,
        task=plan.task,
        step=plan.step,
        attempt=plan.attempt,
        is_validation=plan.is_validation,
        calls=(),
        sequences=(),
        agents={},
        output=None,
        failure=Failure.of(WorkflowError(str(gone))),
        overflowed=frozenset(),
        madness=None,
        seconds=seconds,
    )
