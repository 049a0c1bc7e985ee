"""How often the model to be tuned solves tasks, measured by rollouts of the run's own workflow and
judge, sampled as in training.

The episodes lie in FOLDER/measuring, a run directory for each start, which the viewer shows.
"""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from astuner.backbone.asked_model import AskedModel, load_asked_model, model_behind
from astuner.backbone.assemble import lock_supervised_for, make_gateway, make_pool
from astuner.backbone.environments import open_environments
from astuner.backbone.episode_writer import EpisodeWriter
from astuner.backbone.run import Run
from astuner.llm.server import LlmServer
from astuner.rollout.refused import check_answered
from astuner.run_dir import RunDir
from astuner.task_generation.pass_rate import PassRate, PassRateMeter
from astuner.trajectory.episode import Episode, Group
from astuner.types import Task

MEASURING = "measuring"

WatchAttempts = Callable[[int, int], None]
"""Told of the attempts of these tasks that have ended, and of all."""


@asynccontextmanager
async def open_pass_rate_meter(
    run: Run, *, folder: Path, watch: WatchAttempts
) -> AsyncIterator[PassRateMeter]:
    """Measures as task_reader.data_generation.pass_rate says; `folder` is that of the set.

    The model is loaded when it is first needed, and its memory is free again at the end. The run
    directory of `run` is left alone: it need not be there.
    """
    settings = run.settings.task_reader.data_generation.pass_rate
    if settings.base_url is None:
        meter = _RolloutMeter(run, folder, _load, watch)
        try:
            yield meter
        finally:
            meter.release()
        return
    model_name = settings.model
    assert model_name is not None, "checked with the settings"
    server = LlmServer.read(settings.base_url, settings.api_key_env)
    async with server.open_client() as client:

        async def ask(measuring: Run) -> AskedModel:
            return model_behind(
                measuring, client, model_name=model_name, setting="pass_rate.base_url"
            )

        yield _RolloutMeter(run, folder, ask, watch)


async def _load(run: Run) -> AskedModel:
    """In a thread, since the answers of others come in meanwhile."""
    return await asyncio.to_thread(load_asked_model, run)


class _RolloutMeter:
    """A `PassRateMeter`. It measures some tasks after others, whoever asks."""

    def __init__(
        self,
        run: Run,
        folder: Path,
        load: Callable[[Run], Awaitable[AskedModel]],
        watch: WatchAttempts,
    ) -> None:
        self._run, self._folder = run, folder
        self._load, self._watch = load, watch
        self._model: AskedModel | None = None
        self._num_tasks = 0
        self._alone = asyncio.Lock()

    async def measure(self, tasks: Sequence[Task]) -> Sequence[PassRate]:
        """In the order of the tasks; the same for the same tasks and rollout.seed.

        Raises BackboneError where more attempts fail than rollout.max_failed_fraction allows, or
        every call is refused; a task that is measured alone may fail wholly, as others do.
        """
        if not tasks:
            return []
        async with self._alone:
            if self._model is None:
                run_dir = RunDir.create(self._folder, MEASURING, kind="measurement")
                self._run = replace(self._run, run_dir=run_dir)
                self._model = await self._load(self._run)
            groups = await self._roll_out(self._model, tasks)
            self._num_tasks += len(tasks)
        return [_rate(group) for group in groups]

    async def _roll_out(self, model: AskedModel, tasks: Sequence[Task]) -> list[Group]:
        run = self._run
        num_attempts = run.settings.task_reader.data_generation.pass_rate.num_attempts
        episodes: list[Episode] = []

        def keep(episode: Episode) -> None:
            episodes.append(episode)
            writer.write(episode)
            self._watch(len(episodes), len(tasks) * num_attempts)

        with EpisodeWriter(run.run_dir) as writer:
            async with (
                make_gateway(run) as gateway,
                open_environments(run) as environments,
                model.serving(),
            ):
                pool = make_pool(
                    run,
                    model.make_chat,
                    gateway,
                    environments,
                    make_reference_chat=model.make_reference_chat,
                    max_parallel=run.settings.rollout.max_env_worker,
                    timeout_seconds=run.settings.rollout.episode_timeout_seconds,
                    expect_callers=model.expect_callers,
                    max_failed_fraction=1.0 if len(tasks) == 1 else None,
                )
                with lock_supervised_for(run, log_file=run.run_dir.log_file):
                    groups = await pool.run(
                        tasks,
                        num_repeat=num_attempts,
                        step=1,
                        is_validation=False,
                        on_episode=keep,
                        first_index=self._first_index(tasks[0]),
                    )
            await writer.flush()
        if len(tasks) > 1:
            check_answered(episodes, where="measuring pass rates")
        return groups

    def _first_index(self, task: Task) -> int:
        """Draws are named by it. The turn of a generated task, so that a set that was interrupted
        goes on as it would have; turns grow, so no two tasks of a set share one."""
        turn = task.metadata.get("turn")
        return turn if isinstance(turn, int) else self._num_tasks

    def release(self) -> None:
        """Let go of the model, and give its memory back."""
        self._model = None
        gc.collect()  # the layers of a model refer to each other
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


def _rate(group: Group) -> PassRate:
    verdicts = [episode.verdict for episode in group.judged if episode.verdict]
    return PassRate(
        num_solved=sum(verdict.is_success for verdict in verdicts), num_judged=len(verdicts)
    )
