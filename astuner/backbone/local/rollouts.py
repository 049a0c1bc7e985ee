"""Rolls out tasks on the model that is tuned in this process, and writes each episode down.

Owns the pool and when the engines serve; which tasks, and what becomes of the groups, is not known
here.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from astuner.algorithm.batch import Estimator, count_missing
from astuner.backbone.assemble import make_pool
from astuner.backbone.chats import make_token_chat
from astuner.backbone.episode_writer import EpisodeWriter
from astuner.backbone.local.agents.messages import POLICY, REFERENCE
from astuner.backbone.local.agents.processes import AgentProcesses
from astuner.backbone.local.loop_load import LoopLoad
from astuner.backbone.local.tuned_model import TunedModel
from astuner.backbone.run import Run
from astuner.backbone.validation import Validation, validate
from astuner.env_service.instance import Environments
from astuner.gateway.gateway import Gateway
from astuner.rollout.episode import run_attempt
from astuner.rollout.refused import check_answered
from astuner.trajectory.episode import Episode, Group
from astuner.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledOut:
    """All that was rolled out for one step."""

    groups: tuple[Group, ...]
    num_refills: int
    """Times that groups without spread were replaced by further ones."""
    num_unsettled_passes: int
    """Of both engines; above 0, the same seed may give another run."""
    seconds: float
    """Wall time, judges included."""
    loop_seconds: float
    """Processor time of the thread that runs agents and judges."""


class Rollouts:
    """The rollouts of one run."""

    def __init__(
        self,
        run: Run,
        tuned: TunedModel,
        *,
        gateway: Gateway,
        environments: Mapping[str, Environments],
        writer: EpisodeWriter,
        advantage: Estimator,
        processes: AgentProcesses | None = None,
    ) -> None:
        """`advantage` is what groups have to teach something to. Agents run in `processes`, where
        there are some."""
        self._settings, self._console = run.settings, run.console
        self._engine, self._reference = tuned.engine, tuned.reference
        self._attendance = tuned.attendance
        self._writer = writer
        self._advantage = advantage
        is_on_gpu = tuned.policy.device.type == "cuda"
        self._load = LoopLoad(run.console.say, is_of_interest=is_on_gpu and processes is None)
        if processes is not None:
            processes.serve(
                tuned.policy.name_or_path, {POLICY: tuned.engine, REFERENCE: tuned.reference}
            )
        self._pool = make_pool(
            run,
            make_token_chat(run, tuned.engine, tuned.template),
            gateway,
            environments,
            make_reference_chat=make_token_chat(
                run, tuned.reference, tuned.template, is_trained=False
            ),
            max_parallel=run.settings.rollout.max_env_worker,
            timeout_seconds=run.settings.rollout.episode_timeout_seconds,
            expect_callers=tuned.attendance.expect,
            run_attempt=run_attempt if processes is None else processes.run,
        )

    async def roll_out(
        self, step: int, deal: Callable[[int], list[Task]], *, phase: str
    ) -> RolledOut:
        """A batch of tasks; with dynamic sampling, more for each group without spread.

        `deal` gives so many further tasks; `phase` is what is shown meanwhile.
        """
        size = self._settings.data.train_batch_size
        max_refills = self._settings.trainer_common.algorithm.dynamic_sampling_max_batches
        started, unsettled = time.monotonic(), self._attendance.num_unsettled
        loop_before = time.thread_time()
        groups: list[Group] = []
        num_refills = 0
        async with self._serving():
            groups += await self._roll_out(step, deal(size), phase, first_index=0)
            check_answered([e for g in groups for e in g.episodes], where=f"step {step}")
            while num_refills < max_refills:
                missing = count_missing(groups, size=size, advantage=self._advantage)
                if not missing:
                    break
                tasks = deal(missing)
                groups += await self._roll_out(step, tasks, phase, first_index=len(groups))
                num_refills += 1
        await self._writer.flush()
        seconds = time.monotonic() - started
        loop_seconds = time.thread_time() - loop_before
        self._load.note(busy_seconds=loop_seconds, seconds=seconds)
        return RolledOut(
            groups=tuple(groups),
            num_refills=num_refills,
            num_unsettled_passes=self._attendance.num_unsettled - unsettled,
            seconds=seconds,
            loop_seconds=loop_seconds,
        )

    async def validate(self, step: int, tasks: Sequence[Task]) -> Validation:
        """How good the weights after `step` are."""
        num_repeat = self._settings.rollout.val_kwargs.num_repeat
        self._console.phase("validation")
        async with self._serving():
            validation = await validate(
                self._pool,
                tasks,
                num_repeat=num_repeat,
                step=step,
                on_episode=self._episode_writer(len(tasks) * num_repeat),
            )
        await self._writer.flush()
        return validation

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        async with self._engine.serving(), self._reference.serving():
            yield

    async def _roll_out(
        self, step: int, tasks: Sequence[Task], phase: str, *, first_index: int
    ) -> list[Group]:
        num_repeat = self._settings.rollout.num_repeat
        self._console.phase(phase)
        return await self._pool.run(
            tasks,
            num_repeat=num_repeat,
            step=step,
            is_validation=False,
            on_episode=self._episode_writer(len(tasks) * num_repeat),
            first_index=first_index,
        )

    def _episode_writer(self, total: int) -> Callable[[Episode], None]:
        """Writes each finished episode and moves the progress bar."""
        started, tokens_before, done = time.monotonic(), self._engine.tokens_sampled, 0

        def write(episode: Episode) -> None:
            nonlocal done
            done += 1
            self._writer.write(episode)
            speed = (self._engine.tokens_sampled - tokens_before) / (time.monotonic() - started)
            self._console.advance(done, total, f"episodes, {speed:.0f} tokens/s")

        return write
