"""Where the processes of a clustered run meet: workers, the engine's trainer and the command.

Workers bring finished episodes, the trainer asks which samples of a step to train on, with which
advantages, and says what it does; the command reads the news and writes the run directory. Knows no
Ray and no engine: `remote.py` makes an actor of it.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from astuner.algorithm.batch import (
    Batch,
    choose_groups,
    count_missing,
    length_penalty,
    make_batch,
)
from astuner.algorithm.step_metrics import batch_metrics, rollout_metrics
from astuner.backbone.assemble import load_advantage, make_judging
from astuner.backbone.cluster.compared_groups import Answers, ComparedGroups, GroupKey
from astuner.backbone.cluster.messages import (
    Metrics,
    News,
    Phase,
    PlannedSample,
    SavedState,
    StepPlan,
)
from astuner.backbone.cluster.rows import RowKey
from astuner.backbone.cluster.stored_curriculum import StoredCurriculum
from astuner.backbone.cluster.trained_steps import TrainedSteps
from astuner.backbone.validation import Validation
from astuner.backbone.worker_run import WorkerRun
from astuner.errors import AstunerError, BackboneError
from astuner.rollout.pool import FailureLimit, commonest_failure
from astuner.rollout.refused import check_answered
from astuner.rollout.targets import TargetNote, TargetWatch
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

_Brought = dict[str, dict[int, Episode]]
"""The episodes of a step by the name of their group and their attempt."""


class Hub:
    """The state of one clustered run. One thread runs its methods, which give way to each other
    only where they await what is compared."""

    def __init__(
        self,
        worker_run: WorkerRun,
        tasks: Mapping[str, Sequence[Task]],
        curriculum: StoredCurriculum | None = None,
    ) -> None:
        """`tasks` are those of "train" and "validation"; without a `curriculum` the engine deals
        them by itself."""
        self._worker_run = worker_run
        self._tasks, self._curriculum = tasks, curriculum
        settings = worker_run.settings
        self._size = settings.data.train_batch_size
        self._num_repeat = settings.rollout.num_repeat
        self._run = worker_run.open()
        self._advantage = load_advantage(self._run)
        self._groups: defaultdict[int, _Brought] = defaultdict(dict)
        self._validation: defaultdict[int, _Brought] = defaultdict(dict)
        self._failed: dict[int, FailureLimit] = {}
        self._targets = TargetWatch()
        self._judging = make_judging(self._run)
        self._compared = ComparedGroups(
            self._compare_group, max_parallel=settings.rollout.max_env_worker
        )
        self._refills: defaultdict[int, int] = defaultdict(int)
        self._batches: dict[int, dict[str, float | None]] = {}
        self._trained = TrainedSteps(settings.trainer_common)
        self._is_stop_requested = False
        now = time.monotonic()
        self._began, self._last_sign = now, now
        self._news = News(phase=Phase(name="starting", step=None, silent_seconds=0.0))

    async def prepare(self) -> None:
        """Be ready for what is brought. Raises JudgeError where the judge cannot be."""
        await self._judging.prepare_comparing()

    # What workers bring.

    def worker_run(self) -> WorkerRun:
        return self._worker_run

    def tasks(self, split: str) -> Sequence[Task]:
        return self._tasks[split]

    async def add_episode(
        self, line: bytes, *, group: str, targets: Sequence[TargetNote] = ()
    ) -> bytes | None:
        """Take a finished episode, as one JSON line; `group` names its task in its step.

        `targets` are the notes of its worker since the last episode. Returns None, or for an
        attempt that was brought before the episode that counts, as `compare` does.
        """
        self._note_targets(targets)
        episode = episode_from_record(json.loads(line))
        known = await self._known(episode, group)
        if known is None:
            self._add(episode, line, group)
            self._compared.end(_key(episode, group), episode, size=self._group_size(episode))
        return known

    async def compare(
        self, line: bytes, *, group: str, targets: Sequence[TargetNote] = ()
    ) -> bytes:
        """Take an attempt that is to be compared with the others of its group.

        Returns its episode, as one JSON line, once the group's last attempt has ended and the judge
        has compared them. Raises AstunerError where the whole run has to end, which is known here
        then.
        """
        self._note_targets(targets)
        attempt = attempt_from_record(json.loads(line))
        self._sign()
        known = await self._known(attempt, group)
        if known is not None:
            return known
        size = self._group_size(attempt)
        return await self._compared.compare(_key(attempt, group), attempt, size=size)

    async def _known(self, attempt: Attempt, group: str) -> bytes | None:
        """What came, or comes, of an attempt that was brought before; None for one that was not."""
        judged = self._steps_of(attempt)[attempt.step].get(group, {}).get(attempt.attempt)
        if judged is not None:
            return _line(judged)
        return await self._compared.awaited(_key(attempt, group), attempt)

    async def _compare_group(self, name: str, attempts: Sequence[Attempt]) -> Answers:
        try:
            episodes = await self._judging.compare(attempts)
        except AstunerError as error:
            self.fail(error)
            raise
        answers = {episode.attempt: _line(episode) for episode in episodes}
        for episode in episodes:
            self._add(episode, answers[episode.attempt], name)
        return answers

    def _group_size(self, attempt: Attempt) -> int:
        rollout = self._worker_run.settings.rollout
        return rollout.val_kwargs.num_repeat if attempt.is_validation else rollout.num_repeat

    def _steps_of(self, attempt: Attempt) -> defaultdict[int, _Brought]:
        return self._validation if attempt.is_validation else self._groups

    def _add(self, episode: Episode, line: bytes, group: str) -> None:
        self._news.episodes.append((episode.step, episode.is_validation, line))
        self._sign(done=1)
        step = self._steps_of(episode)[episode.step]
        step.setdefault(group, {})[episode.attempt] = episode
        if episode.is_validation:
            return
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

    def deal(self, step: int, num_tasks: int) -> Sequence[int]:
        """Indices of further training tasks for a step; only where there is a curriculum."""
        assert self._curriculum is not None
        return self._curriculum.deal(step, num_tasks)

    def plan(self, step: int) -> StepPlan:
        """What the step trains on, from the episodes that it has by now."""
        groups = self._finished_groups(step)
        self._finish_first_batch()
        self._check_answered(step, groups)
        algorithm = self._worker_run.settings.trainer_common.algorithm
        missing = count_missing(groups, size=self._size, advantage=self._advantage)
        if missing and self._refills[step] < algorithm.dynamic_sampling_max_batches:
            return self._refill(step, missing)
        batch = self._batch_of(choose_groups(groups, size=self._size, advantage=self._advantage))
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

    def add_logprobs(self, step: int, logprobs: Mapping[str, Sequence[float]]) -> None:
        """Take what the weights before a step think of the trained tokens of each row, by its
        `RowKey.text`."""
        self._trained.add_logprobs(step, logprobs)

    def finish_step(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of a step that is trained."""
        if lines := self._trained.finish(step):
            self._news.trained.append((step, lines))
        self._news.steps.append({"step": step, **self._batches.pop(step, {}), **metrics})
        self._failed.pop(step, None)
        self._refills.pop(step, None)

    def finish_validation(self, step: int) -> None:
        """All episodes of the validation after `step` are in."""
        groups = self._validation.pop(step, {})
        episodes = [episode for group in groups.values() for episode in group.values()]
        try:
            seconds = time.monotonic() - self._began
            self._news.validations.append(Validation.of(episodes, step=step, seconds=seconds))
        except BackboneError as error:
            self.fail(error)

    def saved(self, state: SavedState) -> None:
        if self._curriculum is not None:
            self._curriculum.forget_before(state.step)
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
            Group(
                task=next(iter(group.values())).task,
                episodes=tuple(group[attempt] for attempt in sorted(group)),
            )
            for group in self._groups[step].values()
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
        learned = self._curriculum.finish(step, groups) if self._curriculum else {}
        self._batches.setdefault(step, {}).update(
            {
                **learned,
                **rollout_metrics(groups, seconds=time.monotonic() - self._began),
                **batch_metrics(batch, num_refills=self._refills[step], weight_version=step - 1),
            }
        )
        failure = commonest_failure([episode for group in groups for episode in group.episodes])
        if failure is not None:
            self._news.failures[step] = failure
        samples = tuple(self._planned(batch.samples, self._groups.pop(step, {})))
        self._trained.plan(step, samples, batch.samples)
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

    def _planned(self, samples: Sequence[TrainSample], groups: _Brought) -> Iterator[PlannedSample]:
        homes = {e.episode_id: (name, e) for name, group in groups.items() for e in group.values()}
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
                advantages=sample.advantage_runs,
                weight=1.0 / sizes[sample.episode_id] if is_shared else 1.0,
            )


def _key(attempt: Attempt, group: str) -> GroupKey:
    return (attempt.step, attempt.is_validation, group)


def _line(episode: Episode) -> bytes:
    return json_line(episode_to_record(episode), where=f"episode {episode.episode_id}")
