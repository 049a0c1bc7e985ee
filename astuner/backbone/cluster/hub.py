"""Where the processes of a clustered run meet: workers, the engine's trainer and the command.

Workers bring finished episodes, the trainer asks which samples of a step to train on, with which
advantages, and says what it does; the command reads the news and writes the run directory. Knows no
Ray and no engine: `remote.py` makes an actor of it.
"""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from astuner.algorithm.batch import (
    Batch,
    choose_groups,
    count_missing,
    length_penalty,
    make_batch,
)
from astuner.algorithm.step_metrics import batch_metrics, rollout_metrics
from astuner.backbone.assemble import load_advantage, make_judging
from astuner.backbone.cluster.messages import (
    Metrics,
    News,
    Phase,
    PlannedSample,
    SavedState,
    StepPlan,
    TargetNote,
)
from astuner.backbone.cluster.rows import RowKey
from astuner.backbone.cluster.worker_run import WorkerRun
from astuner.backbone.validation import Validation
from astuner.errors import AstunerError, BackboneError
from astuner.rollout.pool import FailureLimit
from astuner.rollout.refused import check_answered
from astuner.rollout.targets import TargetWatch
from astuner.run_dir import json_line
from astuner.trajectory.attempt import Attempt
from astuner.trajectory.episode import Episode, Group
from astuner.trajectory.record import (
    attempt_from_record,
    episode_from_record,
    episode_to_record,
)
from astuner.trajectory.samples import TrainSample
from astuner.types import Task

GroupKey = tuple[int, bool, str]
"""The step of a group, whether it is of a validation, and its name."""


@dataclass(slots=True)
class _AwaitedGroup:
    """A group of which attempts still run."""

    num_ended: int = 0
    to_compare: list[tuple[Attempt, asyncio.Future[bytes]]] = field(default_factory=list)
    """With where the episode of each is awaited."""


def _key(attempt: Attempt, name: str) -> GroupKey:
    return (attempt.step, attempt.is_validation, name)


class Hub:
    """The state of one clustered run. One thread runs its methods, which give way to each other
    only where they await a judge."""

    def __init__(self, worker_run: WorkerRun, tasks: Mapping[str, Sequence[Task]]) -> None:
        """`tasks` are those of "train" and "validation"."""
        self._worker_run = worker_run
        self._tasks = tasks
        settings = worker_run.settings
        self._size = settings.data.train_batch_size
        self._num_repeat = settings.rollout.num_repeat
        self._run = worker_run.open()
        self._advantage = load_advantage(self._run)
        self._groups: defaultdict[int, dict[str, list[Episode]]] = defaultdict(dict)
        self._validation: defaultdict[int, list[Episode]] = defaultdict(list)
        self._failed: dict[int, FailureLimit] = {}
        self._targets = TargetWatch()
        self._open: defaultdict[GroupKey, _AwaitedGroup] = defaultdict(_AwaitedGroup)
        self._judging = make_judging(self._run)
        self._refills: defaultdict[int, int] = defaultdict(int)
        self._batches: dict[int, dict[str, float | None]] = {}
        self._is_stop_requested = False
        now = time.monotonic()
        self._began, self._last_sign = now, now
        self._news = News(phase=Phase(name="starting", step=None, silent_seconds=0.0))

    # What workers bring.

    def worker_run(self) -> WorkerRun:
        return self._worker_run

    def tasks(self, split: str) -> Sequence[Task]:
        return self._tasks[split]

    async def add_episode(
        self, line: bytes, *, group: str, targets: Sequence[TargetNote] = ()
    ) -> None:
        """Take a finished episode, as one JSON line; `group` names its task in its step.

        `targets` are the notes of its worker since the last episode.
        """
        self._note_targets(targets)
        episode = episode_from_record(json.loads(line))
        self._add(episode, line, group)
        await self._end_attempt(episode, group)

    async def compare(
        self, line: bytes, *, group: str, targets: Sequence[TargetNote] = ()
    ) -> bytes:
        """Take an attempt that is to be compared with the others of its group.

        Returns its episode, as one JSON line, once the group's last attempt has ended and the judge
        has compared them.
        """
        self._note_targets(targets)
        attempt = attempt_from_record(json.loads(line))
        self._sign()
        judged = asyncio.get_running_loop().create_future()
        self._open[_key(attempt, group)].to_compare.append((attempt, judged))
        await self._end_attempt(attempt, group)
        return await judged

    async def _end_attempt(self, attempt: Attempt, name: str) -> None:
        """With the last one of a group, have those compared that wait for it."""
        key = _key(attempt, name)
        group = self._open[key]
        group.num_ended += 1
        rollout = self._worker_run.settings.rollout
        size = rollout.val_kwargs.num_repeat if attempt.is_validation else rollout.num_repeat
        if group.num_ended < size:
            return
        del self._open[key]
        try:
            episodes = await self._judging.compare([waiting for waiting, _ in group.to_compare])
            for episode, (_, judged) in zip(episodes, group.to_compare, strict=True):
                line = json_line(episode_to_record(episode), where=f"episode {episode.episode_id}")
                self._add(episode, line, name)
                judged.set_result(line)
        finally:
            for _, judged in group.to_compare:
                judged.cancel()  # where it is not known: nobody is to wait for ever

    def _add(self, episode: Episode, line: bytes, group: str) -> None:
        self._news.episodes.append((episode.step, episode.is_validation, line))
        self._sign(done=1)
        if episode.is_validation:
            self._validation[episode.step].append(episode)
            return
        self._groups[episode.step].setdefault(group, []).append(episode)
        expected, settings = self._size * self._num_repeat, self._worker_run.settings
        limit = self._failed.setdefault(
            episode.step, FailureLimit(expected, settings.rollout.max_failed_fraction)
        )
        try:
            limit.count(episode)
        except BackboneError as error:
            self.fail(error)

    def fail(self, error: AstunerError) -> None:
        """End the run; the first reason counts."""
        self._news.failure = self._news.failure or error

    # What the trainer does.

    def enter(self, name: str, *, step: int | None = None, total: int | None = None) -> None:
        """Begin a phase; `total` episodes are awaited in it."""
        self._began = self._last_sign = time.monotonic()
        self._news.phase = Phase(name=name, step=step, silent_seconds=0.0, total=total)
        self._news.begun.append((name, step))

    def plan(self, step: int) -> StepPlan:
        """What the step trains on, from the episodes that it has by now."""
        groups = self._finished_groups(step)
        self._finish_first_batch()
        self._check_answered(step, groups)
        algorithm = self._worker_run.settings.trainer_common.algorithm
        missing = count_missing(groups, size=self._size)
        if missing and self._refills[step] < algorithm.dynamic_sampling_max_batches:
            return self._refill(step, missing)
        batch = self._batch_of(choose_groups(groups, size=self._size))
        if not batch.samples:
            return self._nothing_to_train(step)
        return self._settle(step, groups, batch)

    def plan_of_what_is_there(self, step: int) -> StepPlan:
        """The same for an engine that rolls out no more for a step; it may have no sample."""
        groups = self._finished_groups(step)
        self._finish_first_batch()
        self._check_answered(step, groups)
        return self._settle(step, groups, self._batch_of(groups))

    def add_metrics(self, step: int, metrics: Metrics) -> None:
        """Take what another process than the trainer measured of a step that is not finished."""
        self._batches.setdefault(step, {}).update(metrics)

    def finish_step(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of a step that is trained."""
        self._news.steps.append({"step": step, **self._batches.pop(step, {}), **metrics})
        self._failed.pop(step, None)
        self._refills.pop(step, None)

    def finish_validation(self, step: int) -> None:
        """All episodes of the validation after `step` are in."""
        episodes = self._validation.pop(step, [])
        try:
            seconds = time.monotonic() - self._began
            self._news.validations.append(Validation.of(episodes, step=step, seconds=seconds))
        except BackboneError as error:
            self.fail(error)

    def saved(self, state: SavedState) -> None:
        self._news.saved.append(state)

    def is_stop_requested(self) -> bool:
        """Whether to save and end after this step."""
        self._sign()
        return self._is_stop_requested

    # What the command reads.

    def request_stop(self) -> None:
        self._is_stop_requested = True

    def news(self) -> News:
        """Everything since the last call."""
        told = self._news
        silent = time.monotonic() - self._last_sign
        told.phase = replace(told.phase, silent_seconds=silent)
        self._news = News(phase=told.phase)
        return told

    def _sign(self, *, done: int = 0) -> None:
        phase = self._news.phase
        self._last_sign = time.monotonic()
        self._news.phase = replace(phase, silent_seconds=0.0, done=phase.done + done)

    def _finished_groups(self, step: int) -> list[Group]:
        return [
            Group(task=episodes[0].task, episodes=tuple(sorted(episodes, key=_attempt)))
            for episodes in self._groups[step].values()
        ]

    def _note_targets(self, notes: Sequence[TargetNote]) -> None:
        try:
            for targets, agents in notes:
                self._targets.note(targets, agents)
        except AstunerError as error:
            self.fail(error)

    def _finish_first_batch(self) -> None:
        try:
            self._targets.finish_batch()
        except AstunerError as error:
            self.fail(error)

    def _check_answered(self, step: int, groups: Sequence[Group]) -> None:
        try:
            check_answered([e for group in groups for e in group.episodes], where=f"step {step}")
        except AstunerError as error:
            self.fail(error)

    def _batch_of(self, groups: Sequence[Group]) -> Batch:
        settings = self._worker_run.settings
        return make_batch(
            groups,
            advantage=self._advantage,
            max_sequences=settings.rollout.multi_turn.max_sample_per_task,
            penalty_of=length_penalty(
                settings.trainer_common.algorithm, max_tokens=settings.data.max_response_length
            ),
        )

    def _settle(self, step: int, groups: Sequence[Group], batch: Batch) -> StepPlan:
        self._batches.setdefault(step, {}).update(
            {
                **rollout_metrics(groups, seconds=time.monotonic() - self._began),
                **batch_metrics(batch, num_refills=self._refills[step], weight_version=step - 1),
            }
        )
        samples = tuple(self._planned(batch.samples, self._groups.pop(step, {})))
        return StepPlan(samples=samples, num_missing=0)

    def _refill(self, step: int, num_groups: int) -> StepPlan:
        self._refills[step] += 1
        return StepPlan(samples=(), num_missing=num_groups)

    def _nothing_to_train(self, step: int) -> StepPlan:
        """Engines cannot train on nothing: roll out another batch, for so long as `local` would."""
        most = self._worker_run.settings.trainer_common.detectors.no_spread_steps
        if self._refills[step] >= most:
            self.fail(
                BackboneError(
                    f"step {step}: none of {len(self._groups[step])} groups had two different "
                    "rewards, so there is nothing to learn from. Check the judge, raise "
                    "rollout.num_repeat, or take easier tasks"
                )
            )
            return StepPlan(samples=(), num_missing=0)
        return self._refill(step, self._size)

    def _planned(
        self, samples: Sequence[TrainSample], groups: Mapping[str, Sequence[Episode]]
    ) -> Iterator[PlannedSample]:
        homes = {e.episode_id: (name, e) for name, group in groups.items() for e in group}
        common = self._worker_run.settings.trainer_common.algorithm
        sizes: defaultdict[str, int] = defaultdict(int)
        for sample in samples:
            sizes[sample.episode_id] += 1
        is_shared = common.loss_unit == "episode" and common.loss_agg_mode != "token-mean"
        for sample in samples:
            group, episode = homes[sample.episode_id]
            trained = [i for i, s in enumerate(episode.sequences) if s.num_trained]
            yield PlannedSample(
                key=RowKey(group, episode.attempt, trained.index(sample.sequence)),
                advantage=sample.advantage,
                weight=1.0 / sizes[sample.episode_id] if is_shared else 1.0,
            )


def _attempt(episode: Episode) -> int:
    return episode.attempt
