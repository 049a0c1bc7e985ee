"""The loop of the local backbone: roll out, judge, train, measure, save; again.

One process and one model. Owns the order of the phases and what a run's state is between two steps;
the engine samples, the trainer updates, and neither knows of the other.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from astuner.algorithm.batch import (
    PenaltyOf,
    choose_groups,
    divergence_penalty,
    length_penalty,
    make_batch,
)
from astuner.algorithm.step_metrics import batch_metrics, rollout_metrics
from astuner.backbone.assemble import load_advantage, lock_supervised_for, read_tasks
from astuner.backbone.contaminated import warn_of_contamination
from astuner.backbone.curriculum_steps import CurriculumSteps
from astuner.backbone.episode_writer import EpisodeWriter
from astuner.backbone.first_look import tell_of_history, tell_of_tasks
from astuner.backbone.interrupt import Interrupt, Interrupted, interrupted_by_signals
from astuner.backbone.llm_metrics import LlmMetrics
from astuner.backbone.local.agents.processes import AgentProcesses
from astuner.backbone.local.disk import check_disk
from astuner.backbone.local.keeper import CheckpointKeeper, Saved, find_saved, go_on_from
from astuner.backbone.local.rollouts import RolledOut, Rollouts
from astuner.backbone.local.run_state import RunState
from astuner.backbone.local.tuned_model import load_tuned_model
from astuner.backbone.local.warm_start import warm_start
from astuner.backbone.loggers import LogMetrics
from astuner.backbone.reporter import Reporter, WeightsLost
from astuner.backbone.run import Run, RunResult
from astuner.backbone.run_end import end_run
from astuner.backbone.trained_record import trained_line
from astuner.config.schema import Settings
from astuner.env_service.instance import Environments
from astuner.errors import AstunerError, BackboneError
from astuner.gateway.gateway import Gateway
from astuner.machine.heap import lasting_heap
from astuner.rollout.pool import commonest_failure
from astuner.task_reader.curriculum import CurriculumOrder, make_order
from astuner.task_reader.order import TaskOrder
from astuner.training.scored import ScoredSample
from astuner.training.trainer import PolicyTrainer
from astuner.trajectory.episode import Group
from astuner.trajectory.samples import make_samples
from astuner.types import Task


async def tune(
    run: Run,
    log: LogMetrics,
    writer: EpisodeWriter,
    gateway: Gateway,
    environments: Mapping[str, Environments],
    processes: AgentProcesses | None,
) -> RunResult:
    """The whole run, its last checkpoint and its end included."""
    training, validation = read_tasks(run)
    num_test = warn_of_contamination(run, training, validation)
    warmed = await warm_start(run, training)
    if warmed.exit_code:
        return RunResult(run_dir=run.run_dir.root, exit_code=warmed.exit_code)
    saved = find_saved(run, training) if run.is_resumed else None
    rollouts = partial(
        Rollouts,
        run,
        gateway=gateway,
        environments=environments,
        writer=writer,
        processes=processes,
    )
    tuning = _Tuning(run, training, validation, num_test, saved, log, writer, rollouts)
    notice = "the weights are saved first"
    with interrupted_by_signals(run.console, notice=notice, grace=run.grace) as interrupt:
        try:
            await tuning.look_first()
            with lock_supervised_for(run, log_file=run.run_dir.log_file):
                await tuning.run_steps(interrupt)
        except (asyncio.CancelledError, Interrupted):
            if not interrupt.is_requested:
                raise
            tuning.save()
        except WeightsLost:
            raise
        except Exception:
            # What was learned is kept, whatever it was, a bug too; the keeper refuses a half
            # step. A full disk refuses again, and the first error counts.
            with contextlib.suppress(AstunerError):
                tuning.save()
            raise
    return tuning.finish(exit_code=interrupt.exit_code)


class _Tuning:
    """The state of one run: how many steps are done, and the parts that do them."""

    def __init__(
        self,
        run: Run,
        training: Sequence[Task],
        validation: Sequence[Task],
        num_test: int | None,
        saved: Saved | None,
        log: LogMetrics,
        writer: EpisodeWriter,
        make_rollouts: Callable[..., Rollouts],
    ) -> None:
        settings = run.settings
        self._run, self._settings, self._console = run, settings, run.console
        self._training = training
        self._validation = validation[: settings.data.max_validation_tasks]
        self._order = _make_order(settings, training, saved)
        self._curriculum = _curriculum(self._order, training)
        self._num_steps = _count_steps(settings, self._order)
        self._advantage = load_advantage(run)
        for_test = f", {num_test} for the test" if num_test else ""
        self._console.say(
            f"tasks: {len(training)} for training, {len(self._validation)} for validation"
            f"{for_test}; {self._num_steps} steps of {settings.data.train_batch_size} tasks x "
            f"{settings.rollout.num_repeat} episodes"
        )
        if self._curriculum is not None:
            self._console.say(self._curriculum.describe())
        tuned = load_tuned_model(run, saved)
        self._engine, self._trainer = tuned.engine, tuned.trainer
        self._template = tuned.template
        check_disk(
            run,
            tuned.policy.model,
            first_step=saved.state.step if saved else 0,
            num_steps=self._num_steps,
            has_best=bool(self._validation),
        )
        self._rollouts, self._writer = make_rollouts(tuned, advantage=self._advantage), writer
        self._keeper = CheckpointKeeper(run, tuned.policy, tuned.trainer, training)
        self._llm_metrics = LlmMetrics()
        self._reporter = Reporter(run, log, num_steps=self._num_steps)
        self._reporter.plan(
            num_tasks=len(training),
            num_validation_tasks=len(self._validation),
            num_test_tasks=num_test,
        )
        self._interrupt = Interrupt()
        self._state = saved.state if saved else self._state_after(0, {}, best=None, is_logged=True)
        if saved:
            go_on_from(saved, run, self._trainer)
            self._keeper.take_over(saved)
            state = saved.state
            self._reporter.go_on_from(
                state.metrics, validations=state.validations, health=state.health
            )

    async def look_first(self) -> None:
        """Say of a new run what its tasks and template show at a glance."""
        if not self._run.is_resumed:
            tell_of_tasks(self._run, self._training)
            await tell_of_history(self._run, self._template)

    async def run_steps(self, interrupt: Interrupt) -> None:
        """All steps with their validations and checkpoints, until `interrupt` asks for an end."""
        self._interrupt = interrupt
        common = self._settings.trainer_common
        if not self._state.is_logged:
            await self._close_step()
        elif self._state.step == 0 and common.val_before_train:
            await self._validate_and_write({"step": 0})
        num_before = self._state.step
        with lasting_heap() as freeze:
            while self._state.step < self._num_steps:
                interrupt.check()
                await self._run_step()
                self._check_health()
                await self._close_step()
                if self._is_due(common.save_freq):
                    self.save()
                if self._state.step == num_before + 1:
                    freeze()  # what agents imported when they first ran

    async def _run_step(self) -> None:
        started = time.monotonic()
        step = self._state.step + 1
        name = f"step {step}/{self._num_steps}"
        rolled_out = await self._rollouts.roll_out(step, self._deal, phase=f"{name}: rollout")
        size = self._settings.data.train_batch_size
        groups = choose_groups(rolled_out.groups, size=size, advantage=self._advantage)
        learned = self._curriculum.finish(step, rolled_out.groups) if self._curriculum else {}
        metrics = self._train(step, name, rolled_out, groups)
        metrics = {"step": step, **metrics, **learned, "step/seconds": time.monotonic() - started}
        self._state = self._state_after(step, metrics, best=self._state.best, is_logged=False)
        episodes = [episode for group in groups for episode in group.episodes]
        self._reporter.show_step(metrics, commonest_failure=commonest_failure(episodes))

    def _deal(self, num_tasks: int) -> list[Task]:
        if self._curriculum is None:
            indices = self._order.next_batch(num_tasks)
        else:
            indices = self._curriculum.deal(self._state.step + 1, num_tasks)
        return [self._training[index] for index in indices]

    def _train(
        self, step: int, name: str, rolled_out: RolledOut, groups: Sequence[Group]
    ) -> dict[str, float | None]:
        """Train on `groups`. Returns what there is to measure of the step."""
        batch = make_batch(
            groups,
            advantage=self._advantage,
            max_sequences=self._settings.rollout.multi_turn.max_sample_per_task,
            penalty_of=_penalty(self._settings, self._trainer, groups),
        )
        self._console.phase(f"{name}: train")
        train = self._trainer.train_step(
            batch.samples,
            on_progress=self._on_train_progress,
            on_scored=partial(self._record_training, step)
            if self._settings.trainer_common.record_training
            else None,
        )
        of_batch = batch_metrics(
            batch,
            num_refills=rolled_out.num_refills,
            weight_version=self._engine.weight_version,
        )
        if train["train/updates"]:
            self._engine.weights_updated()
        return {
            **rollout_metrics(rolled_out.groups, seconds=rolled_out.seconds),
            **self._llm_metrics.take(),
            **of_batch,
            "rollout/loop_seconds": rolled_out.loop_seconds,
            "rollout/unsettled_passes": rolled_out.num_unsettled_passes,
            "rollout/weight_version": self._engine.weight_version,
            "train/kl": None,  # without a reference it is not known
            **train,
        }

    def _record_training(self, step: int, scored: Sequence[ScoredSample]) -> None:
        lines = (
            trained_line(
                one.sample,
                step=step,
                weight=one.weight,
                update=one.update,
                logprobs=one.logprobs,
                reference_logprobs=one.reference_logprobs,
            )
            for one in scored
        )
        if scored:
            self._writer.write_trained(lines, step=step)

    def _on_train_progress(self, done: int, total: int) -> None:
        if self._trainer.num_updates == self._state.num_updates:
            # A step that has changed the weights is finished: only whole steps can be resumed.
            self._interrupt.check()
        self._console.advance(done, total, "tokens")

    def _state_after(
        self,
        step: int,
        metrics: dict[str, float | None],
        *,
        best: dict[str, float] | None,
        is_logged: bool,
    ) -> RunState:
        return RunState(
            step=step,
            num_updates=self._trainer.num_updates,
            weight_version=self._engine.weight_version,
            task_order=self._order.state(),
            metrics=metrics,
            is_logged=is_logged,
            validations=self._reporter.validations,
            health=self._reporter.health,
            best=best,
        )

    def _check_health(self) -> None:
        """Raises BackboneError, the step's line written, where the run is to stop."""
        metrics = self._state.metrics
        try:
            self._reporter.check_health(metrics, last_good=self._keeper.latest)
        except BackboneError:
            self._reporter.write(metrics)
            raise
        self._state = replace(self._state, health=self._reporter.health)

    async def _close_step(self) -> None:
        """Validate if it is time, write the metrics, and wait for what the step recorded."""
        if self._is_due(self._settings.trainer_common.test_freq):
            await self._validate_and_write(self._state.metrics)
        else:
            self._reporter.write(self._state.metrics)
        self._state = replace(
            self._state,
            metrics=self._reporter.metrics,
            is_logged=True,
            validations=self._reporter.validations,
        )
        await self._writer.flush()

    async def _validate_and_write(self, metrics: dict[str, float | None]) -> None:
        """The line of a step, with its validation, and without it where that is interrupted."""
        try:
            if self._validation:
                step = self._state.step
                self._reporter.take_validation(
                    await self._rollouts.validate(step, self._validation)
                )
        finally:
            self._reporter.write(metrics)

    def _is_due(self, frequency: int) -> bool:
        step = self._state.step
        return step == self._num_steps or step % frequency == 0

    def save(self) -> None:
        """Write a checkpoint of the last whole step."""
        with self._run.grace.saving() if self._run.grace else contextlib.nullcontext():
            self._state = self._keeper.save(self._state)

    def finish(self, *, exit_code: int) -> RunResult:
        """Say what came of it, and where everything lies."""
        return end_run(self._run, self._reporter, exit_code=exit_code)


def _make_order(
    settings: Settings, tasks: Sequence[Task], saved: Saved | None
) -> TaskOrder | CurriculumOrder:
    order = make_order(settings, tasks)
    if saved is not None:
        order.go_on(saved.state.task_order)
    return order


def _curriculum(
    order: TaskOrder | CurriculumOrder, tasks: Sequence[Task]
) -> CurriculumSteps | None:
    return CurriculumSteps(order, tasks) if isinstance(order, CurriculumOrder) else None


def _count_steps(settings: Settings, order: TaskOrder | CurriculumOrder) -> int:
    common = settings.trainer_common
    steps = common.total_epochs * order.batches_per_epoch
    limit = common.total_training_steps
    return steps if limit is None else min(steps, limit)


def _penalty(settings: Settings, trainer: PolicyTrainer, groups: Sequence[Group]) -> PenaltyOf:
    """What the settings ask to be taken off an episode's rewards."""
    algorithm = settings.trainer_common.algorithm
    for_length = length_penalty(algorithm, max_tokens=settings.data.max_response_length)
    if not algorithm.use_kl_in_reward:
        return for_length
    max_sequences = settings.rollout.multi_turn.max_sample_per_task
    unweighted = [
        sample
        for group in groups
        for episode in group.judged
        for sample in make_samples(
            episode, advantage_of=lambda _: 0.0, max_sequences=max_sequences
        )[0]
    ]
    for_divergence = divergence_penalty(trainer.reference_divergences(unweighted))
    return lambda episode, agents: for_length(episode, agents) + for_divergence(episode, agents)
