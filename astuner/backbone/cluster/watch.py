"""What the command does while a cluster works: reads the hub's news, has them written down and
shown, and ends a run that is silent for too long."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent import futures
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from astuner.backbone.cluster.hub_handle import HubHandle
from astuner.backbone.cluster.messages import SAVING, Phase, SavedState
from astuner.backbone.episode_writer import EpisodeWriter
from astuner.backbone.reporter import Reporter
from astuner.backbone.run import Run
from astuner.backbone.validation import Validation
from astuner.console import duration
from astuner.errors import BackboneError

Answer = TypeVar("Answer")

_INTERVAL_SECONDS = 0.5
_LOOK_SECONDS = 5.0
"""Between looks for actors that died."""
_END_SECONDS = 3.0
"""How long an engine may take to end when the hub is gone."""
_TELL_SECONDS = 20.0
"""How long it may take to end when one of its processes is gone, and to say itself why."""
_TURN_SECONDS = 1.0
"""Of a wait for the hub, which is made of these."""
_STOPPED_SECONDS = 5.0
"""By which a wait may overrun its time in a process that runs."""
_SLACK_SECONDS = 60.0
"""Beyond the time limits of an episode: for the engine's queue and the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long a phase may give no sign of life, in seconds."""

    phase: float
    rollout: float
    """Of phases that wait for episodes: each of these is bounded itself."""

    @classmethod
    def of(cls, run: Run) -> "Deadlines":
        settings = run.settings
        episode = (
            settings.rollout.episode_timeout_seconds + settings.task_judge.judge_timeout_seconds
        )
        return cls(
            phase=settings.trainer_common.phase_timeout_seconds, rollout=episode + _SLACK_SECONDS
        )

    def seconds(self, phase: Phase) -> float:
        if phase.total is None:
            return self.phase
        return max(self.rollout, self.phase) if phase.done == 0 else self.rollout


class Watch:
    """Follows one run to its end. Owns when it is given up."""

    def __init__(
        self,
        run: Run,
        hub: HubHandle,
        *,
        reporter: Reporter,
        writer: EpisodeWriter,
        export: Callable[[SavedState], str],
        describe_silence: Callable[[], str],
        find_lost: Callable[[], str | None] = lambda: None,
        lost: tuple[type[Exception], ...] = (),
        first_step: int = 0,
    ) -> None:
        """`export` makes a checkpoint of a saved state and returns a line about it;
        `describe_silence` tells who has not answered and what their logs say last, `find_lost` of
        an actor that is gone, which not every engine notices; `lost` are raised in place of an
        answer where the hub is gone."""
        self._run, self._hub = run, hub
        self._reporter, self._writer = reporter, writer
        self._export, self._describe_silence = export, describe_silence
        self._find_lost, self._looked = find_lost, time.monotonic()
        self._lost, self._awake_since = lost, time.monotonic()
        self._deadlines = Deadlines.of(run)
        self._started = time.monotonic()
        self._phase = Phase(name="starting", step=None, silent_seconds=0.0)
        self._first_step = self.last_step = first_step
        self._is_stop_wanted = False
        self._saving, self._is_saving = ExitStack(), False
        self._failures: dict[int, str] = {}
        """Of the steps that are not shown yet: the commonest."""

    async def begin(self, phase: str) -> None:
        """Tell the hub of a phase that the engine does not tell of itself."""
        await self._answer(self._hub.enter.remote(phase))

    async def follow(self, engine: Future[Any]) -> None:
        """Until the engine ends. Raises BackboneError when it has to be given up, and what it
        raised itself."""
        try:
            with self._saving:
                await self._follow(engine)
        except self._lost as error:
            await asyncio.to_thread(futures.wait, [engine], timeout=_END_SECONDS)
            if engine.done():
                engine.result()  # what ended both, where it knows that
            raise self._hub_lost(error) from error

    async def _follow(self, engine: Future[Any]) -> None:
        is_told = False
        while not engine.done():
            if self._is_stop_wanted and not is_told:
                is_told = True
                await self._answer(self._hub.request_stop.remote())
            await self._read()
            await self._look_for_lost(engine)
            await self._wait(asyncio.sleep(_INTERVAL_SECONDS), seconds=_INTERVAL_SECONDS)
        await self._read()
        engine.result()

    def stop(self) -> None:
        """Have the trainer save and end after the step that it is at."""
        self._is_stop_wanted = True

    async def _read(self) -> None:
        news = await self._answer(self._hub.news.remote())
        answered, self._phase = time.monotonic(), news.phase
        for name, step in news.begun:
            self._begin(name, step)
        for step, is_validation, line in news.episodes:
            self._writer.write_line(line, step=step, is_validation=is_validation)
        for step, lines in news.trained:
            self._writer.write_trained(lines, step=step)
        await self._writer.flush()
        for validation in news.validations:
            self._take_validation(validation)
            self._reporter.mark_best()  # which the next export spares
        self._failures |= news.failures
        for metrics in news.steps:
            self._take_step(metrics)
        is_saving = news.phase.name == SAVING
        self._keep_from_being_cut(is_saving or bool(news.saved))
        for saved in news.saved:
            self._run.console.say(await asyncio.to_thread(self._export, saved))
            self._reporter.mark_best()
        self._keep_from_being_cut(is_saving)
        if news.failure is not None:
            lost = self._find_lost()
            raise news.failure if lost is None else self._worker_lost(lost) from news.failure
        self._show(news.phase)
        self._note_stop(answered)
        limit = self._deadlines.seconds(news.phase)
        # Who stops this process, as `docker pause` does, may have stopped all of them.
        silent = min(news.phase.silent_seconds, time.monotonic() - self._awake_since)
        if silent > limit:
            raise self._silence(silent, limit)

    def _keep_from_being_cut(self, is_saving: bool) -> None:
        """The end of the run's grace waits while something is saved."""
        if is_saving == self._is_saving or self._run.grace is None:
            return
        self._is_saving = is_saving
        if is_saving:
            self._saving.enter_context(self._run.grace.saving())
        else:
            self._saving.close()

    async def _answer(self, asked: Awaitable[Answer]) -> Answer:
        """Of the hub, which may be as silent as the phase that it told of last."""
        limit, waited = self._deadlines.seconds(self._phase), 0.0
        answer = asyncio.ensure_future(asked)
        try:
            while not answer.done():
                if waited >= limit:
                    raise self._silence(limit, limit)
                seconds = min(_TURN_SECONDS, limit - waited)
                await self._wait(asyncio.wait({answer}, timeout=seconds), seconds=seconds)
                waited += seconds
            return answer.result()
        finally:
            answer.cancel()

    async def _wait(self, waiting: Awaitable[Any], *, seconds: float) -> None:
        """Wait for what takes so long at most; note where this process was stopped meanwhile."""
        before = time.monotonic()
        await waiting
        self._note_stop(before + seconds)

    def _note_stop(self, due: float) -> None:
        """Take what is far later than it was due for a sign that this process was stopped."""
        if time.monotonic() - due > _STOPPED_SECONDS:
            self._awake_since = time.monotonic()

    def _silence(self, seconds: float, limit: float) -> BackboneError:
        return BackboneError(
            f"{_named(self._phase.name, self._phase.step)}: no sign of life for "
            f"{duration(seconds)} (limit {duration(limit)}; "
            "trainer_common.phase_timeout_seconds, rollout.episode_timeout_seconds); mend the "
            "cause or raise the limit, then go on with --resume. " + self._describe_silence()
        )

    def _hub_lost(self, error: Exception) -> BackboneError:
        first = str(error).strip().partition("\n")[0]
        return BackboneError(
            f"{_named(self._phase.name, self._phase.step)}: the hub of the run is lost "
            f"({type(error).__name__}: {first}); mend the cause, then go on with --resume. "
            + self._describe_silence()
        )

    async def _look_for_lost(self, engine: Future[Any]) -> None:
        """An engine does not notice each loss; where it does, it tells more."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        found = self._find_lost()
        if found is None:
            return
        await asyncio.to_thread(futures.wait, [engine], timeout=_TELL_SECONDS)
        if not engine.done():
            raise self._worker_lost(found)

    def _worker_lost(self, found: str) -> BackboneError:
        return BackboneError(
            f"{_named(self._phase.name, self._phase.step)}: {found}; mend the cause, then go on "
            "with --resume. " + self._describe_silence()
        )

    def _begin(self, name: str, step: int | None) -> None:
        self._run.console.phase(_named(name, step))
        if step is None or self.last_step == self._first_step:
            self._run.console.say(
                f"{duration(time.monotonic() - self._started)}  {_named(name, step)}"
            )

    def _show(self, phase: Phase) -> None:
        if phase.total is not None:
            self._run.console.advance(phase.done, phase.total, "episodes")

    def _take_validation(self, validation: Validation) -> None:
        """It joins the line of its step, or has one of its own where that is written already."""
        self._reporter.take_validation(validation)
        if validation.step <= self.last_step:
            self._reporter.write({"step": validation.step})

    def _take_step(self, metrics: dict[str, float | None]) -> None:
        self._reporter.write(metrics)
        self.last_step = int(metrics["step"] or 0)
        failure = self._failures.pop(self.last_step, None)
        self._reporter.show_step(metrics, commonest_failure=failure)
        last_good = self._run.run_dir.latest_checkpoint()
        self._reporter.check_health(metrics, last_good=last_good)


def _named(name: str, step: int | None) -> str:
    return name if step is None else f"step {step}: {name}"


async def follow_to_end(watch: Watch, engine: Future[Any]) -> None:
    """Follow; the first cancellation asks the trainer to stop, a second one is obeyed at once."""
    following = asyncio.ensure_future(watch.follow(engine))
    task, is_asked = asyncio.current_task(), False
    while True:
        try:
            return await asyncio.shield(following)
        except asyncio.CancelledError:
            if is_asked or following.cancelled() or task is None:
                following.cancel()
                raise
            is_asked = True
            task.uncancel()
            watch.stop()
