"""Rolls out tasks on one model as a validation does, trains nothing, and goes on after a kill.

Each episode is written as it ends, under the name of its task's place and its attempt, by which its
draws are named too. What stands in the run directory already is left out.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from astuner.backbone.asked_model import AskedModel, load_asked_model, model_behind
from astuner.backbone.assemble import lock_supervised_for, make_gateway, make_pool
from astuner.backbone.environments import open_environments
from astuner.backbone.episode_writer import EpisodeWriter
from astuner.backbone.interrupt import interrupted_by_signals
from astuner.backbone.run import Run, RunResult
from astuner.backbone.run_events import RunEvents
from astuner.errors import BackboneError, ConfigError
from astuner.llm.server import LlmServer
from astuner.rollout.refused import check_answered
from astuner.run_dir import RunDir, read_json_lines
from astuner.task_judge.base_judge import GroupJudge
from astuner.trajectory.episode import Episode
from astuner.trajectory.recorder import Recorder
from astuner.types import Task, WorkflowTask

STEP = 0
"""Under which the episodes are recorded, as a validation before any training is."""
_BORNE_FAILURES = 10
"""So many failed episodes never end an evaluation, however few it has."""

Attempted = tuple[int, int]
"""The index of a task and the number of an attempt at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedServer:
    """An OpenAI-compatible server that answers for the model."""

    server: LlmServer
    model_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationWork:
    """What is rolled out, and on what."""

    tasks: Sequence[Task]
    num_repeat: int
    server: NamedServer | None
    """None: model.path is loaded in this process."""
    reference: str | None
    """Answers agents that are not trained; None: the evaluated model itself."""
    retries_failed: bool = False


@dataclass(slots=True)
class RecordedAttempts:
    """Those that a run directory holds."""

    judged: set[Attempted] = field(default_factory=set)
    failed: set[Attempted] = field(default_factory=set)

    @property
    def all(self) -> set[Attempted]:
        return self.judged | self.failed


def read_recorded(run_dir: RunDir) -> RecordedAttempts:
    """A torn last line is left out. Raises AstunerError for a file that was changed by hand."""
    recorded = RecordedAttempts()
    path = run_dir.episodes_file(STEP, "validation")
    for record in read_json_lines(path) if path.exists() else ():
        kind = recorded.failed if record.get("failure") else recorded.judged
        kind.add(_attempted(record))
    return recorded


def _attempted(record: Mapping[str, Any]) -> Attempted:
    """The pool names an episode by kind and step, then these two."""
    _, index, attempt = str(record["episode_id"]).rsplit("-", 2)
    return int(index), int(attempt)


class EvaluationBackbone:
    """Rolls out the attempts of `work` that are not recorded yet."""

    def __init__(self, work: EvaluationWork) -> None:
        self._work = work

    async def run(self, run: Run) -> RunResult:
        """Raises BackboneError where the model cannot be loaded, or too many episodes fail."""
        work = self._work
        num_all = len(work.tasks) * work.num_repeat
        done = _begin(run, work)
        RunEvents(run.run_dir).planned(
            num_steps=None, num_tasks=0, num_validation_tasks=len(work.tasks)
        )
        if done.all:
            run.console.say(f"{len(done.all)} of {num_all} episodes are there already")
        progress = _EpisodeProgress(run, num_all=num_all, done=done)
        notice = "what was evaluated is kept; the same command goes on"
        with (
            EpisodeWriter(run.run_dir) as writer,
            interrupted_by_signals(run.console, notice=notice, grace=run.grace) as interrupt,
        ):
            try:
                episodes = await _roll_out(run, work, done, writer, progress)
                check_answered(episodes, where="the evaluation")
            except asyncio.CancelledError:
                if not interrupt.is_requested:
                    raise
        return RunResult(run_dir=run.run_dir.root, exit_code=interrupt.exit_code)


async def _roll_out(
    run: Run,
    work: EvaluationWork,
    done: RecordedAttempts,
    writer: EpisodeWriter,
    progress: "_EpisodeProgress",
) -> list[Episode]:
    episodes: list[Episode] = []

    def keep(episode: Episode) -> None:
        writer.write(episode)
        progress.count(episode)

    num_left = len(work.tasks) * work.num_repeat - len(done.all)
    if not num_left:
        return episodes
    async with (
        make_gateway(run) as gateway,
        open_environments(run) as environments,
        _serving(run, work) as model,
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
            max_failed_fraction=_max_failed_fraction(run, num_left),
        )
        run.console.phase("evaluation")
        with lock_supervised_for(run, log_file=run.run_dir.log_file):
            groups = await pool.run(
                work.tasks,
                num_repeat=work.num_repeat,
                step=STEP,
                is_validation=True,
                on_episode=keep,
                left_out=done.all,
            )
        await writer.flush()
    return [episode for group in groups for episode in group.episodes]


def _max_failed_fraction(run: Run, num_left: int) -> float:
    return max(run.settings.rollout.max_failed_fraction, min(1.0, _BORNE_FAILURES / num_left))


@asynccontextmanager
async def _serving(run: Run, work: EvaluationWork) -> AsyncIterator[AskedModel]:
    if work.server is None:
        model = _load(run, work.reference)
        async with model.serving():
            yield model
        return
    async with work.server.server.open_client() as client:
        model = model_behind(
            run, client, model_name=work.server.model_name, setting="the evaluated model at"
        )
        yield _without_reference(model) if work.reference else model


def _load(run: Run, reference: str | None) -> AskedModel:
    """What is wrong with one model is its own failure, and no reason to evaluate no other."""
    try:
        return load_asked_model(run, reference=reference)
    except ConfigError as error:
        raise BackboneError(str(error)) from error


def _without_reference(model: AskedModel) -> AskedModel:
    def refuse(_recorder: Recorder, _task: WorkflowTask) -> Any:
        raise ConfigError(
            "an agent that is not trained asks for the reference, the weights that training starts "
            "from, and the evaluated model is a server's; name a model of a server in "
            "rollout.untrained_model, or evaluate a folder"
        )

    return AskedModel(
        make_chat=model.make_chat,
        make_reference_chat=refuse,
        serving=model.serving,
        expect_callers=model.expect_callers,
    )


def _begin(run: Run, work: EvaluationWork) -> RecordedAttempts:
    """What counts as done. What is to be done again is set aside first."""
    path = run.run_dir.episodes_file(STEP, "validation")
    if not path.exists():
        return RecordedAttempts()
    recorded = read_recorded(run.run_dir)
    again = _half_groups(run, work, recorded)
    if work.retries_failed:
        again |= recorded.failed | _groups_of(run, work, recorded.failed)
    num_aside = run.run_dir.set_lines_aside(path, lambda record: _attempted(record) not in again)
    if num_aside:
        run.console.say(f"{num_aside} recorded episodes are done again; they lie in set_aside")
    recorded.judged -= again
    recorded.failed -= again
    return recorded


def _half_groups(run: Run, work: EvaluationWork, recorded: RecordedAttempts) -> set[Attempted]:
    """What is recorded of groups that a judge compares and that were cut in the middle: their
    attempts are judged beside each other or not at all."""
    there = recorded.all
    begun = {
        pair
        for pair in there
        if any((pair[0], attempt) not in there for attempt in range(work.num_repeat))
    }
    return _groups_of(run, work, begun) & there


def _groups_of(run: Run, work: EvaluationWork, pairs: set[Attempted]) -> set[Attempted]:
    """All attempts of the groups of these, as far as a judge compares them."""
    return {
        (index, attempt)
        for index, _ in pairs
        if isinstance(run.own_judges.get(work.tasks[index].source, run.judge), GroupJudge)
        for attempt in range(work.num_repeat)
    }


class _EpisodeProgress:
    """How far it is, and what came of it so far, for who watches."""

    def __init__(self, run: Run, *, num_all: int, done: RecordedAttempts) -> None:
        self._console, self._num_all = run.console, num_all
        self._num_judged, self._num_failed = len(done.judged), len(done.failed)
        self._num_new, self._num_new_successes = 0, 0

    def count(self, episode: Episode) -> None:
        self._num_judged += episode.verdict is not None
        self._num_failed += episode.verdict is None
        if episode.verdict is not None:
            self._num_new += 1
            self._num_new_successes += episode.verdict.is_success is True
        self._console.advance(self._num_judged + self._num_failed, self._num_all, self._note)

    @property
    def _note(self) -> str:
        rate = f"success {self._num_new_successes / self._num_new:.3f} " if self._num_new else ""
        failed = f", {self._num_failed} failed" if self._num_failed else ""
        return f"episodes, {rate}so far{failed}"
