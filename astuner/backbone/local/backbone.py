"""The loop of the local backbone: roll out, judge, train, measure, save; again.

One process and one model. Owns the order of the phases and what is written when; the engine
samples, the trainer updates, and neither knows of the other.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from astuner.algorithm.batch import (
    PenaltyOf,
    divergence_penalty,
    is_useful,
    length_penalty,
    make_batch,
    rollout_metrics,
)
from astuner.algorithm.health import Health, HealthSettings
from astuner.backbone.assemble import (
    find_model,
    load_advantage,
    load_own_function,
    make_gateway,
    make_pool,
    make_token_chat,
    read_tasks,
)
from astuner.backbone.episode_writer import EpisodeWriter
from astuner.backbone.interrupt import Interrupt, Interrupted, interrupt_on_ctrl_c
from astuner.backbone.local.fit import place
from astuner.backbone.local.keeper import CheckpointKeeper, Saved, find_saved, go_on_from
from astuner.backbone.local.run_state import RunState
from astuner.backbone.local.serve import load_engine, make_reference_engine
from astuner.backbone.local.settings import trainer_settings
from astuner.backbone.loggers import metrics_log
from astuner.backbone.run import Run, RunResult
from astuner.backbone.validation import Validation, validate
from astuner.console import duration, number, step_line
from astuner.engine.reference import PolicyCallers, ReferenceEngine, frozen_copy
from astuner.errors import AstunerError, BackboneError, ConfigError
from astuner.gateway.gateway import Gateway
from astuner.inference.shapes.routed import REFERENCE
from astuner.models.load import load_policy
from astuner.rollout.pool import commonest_failure
from astuner.run_dir import append_json_line
from astuner.task_reader.order import TaskOrder
from astuner.training.trainer import PolicyTrainer
from astuner.trajectory.episode import Episode, Group
from astuner.trajectory.samples import make_samples
from astuner.types import Task

LogMetrics = Callable[[Mapping[str, float | None]], None]


class LocalBackbone:
    """Tunes a model on this machine."""

    async def run(self, run: Run) -> RunResult:
        with metrics_log(run) as log, EpisodeWriter(run.run_dir) as writer:
            async with make_gateway(run) as gateway:
                return await self._run(run, log, writer, gateway)

    async def _run(
        self, run: Run, log: LogMetrics, writer: EpisodeWriter, gateway: Gateway
    ) -> RunResult:
        training, validation = read_tasks(run)
        saved = find_saved(run, training) if run.is_resumed else None
        loop = _Loop(run, training, validation, saved, log, writer, gateway)
        notice = "the weights are saved first"
        with interrupt_on_ctrl_c(run.console, notice=notice) as interrupt:
            try:
                await loop.run_steps(interrupt)
            except (asyncio.CancelledError, Interrupted):
                if not interrupt.is_requested:
                    raise
                loop.save()
            except _WeightsLost:
                raise
            except AstunerError:
                # What was learned is kept. A full disk refuses again, and the first error counts.
                with contextlib.suppress(BackboneError):
                    loop.save()
                raise
        loop.report()
        return RunResult(
            run_dir=run.run_dir.root,
            checkpoint=loop.keeper.latest,
            metrics=loop.metrics,
            is_interrupted=interrupt.is_requested,
        )


class _WeightsLost(BackboneError):
    """The weights are broken, so they are not saved over a checkpoint that works."""


class _Loop:
    """The state of one run: how many steps are done, and the parts that do them."""

    def __init__(
        self,
        run: Run,
        training: Sequence[Task],
        validation: Sequence[Task],
        saved: Saved | None,
        log: LogMetrics,
        writer: EpisodeWriter,
        gateway: Gateway,
    ) -> None:
        config = run.settings
        self._gateway = gateway
        self._writer = writer
        self._log = log
        self._run, self._config, self._console = run, config, run.console
        self._training = training
        self._validation = validation[: config.data.max_validation_tasks]
        self._order = self._make_order(saved)
        self._num_steps = self._count_steps()
        self._advantage = load_advantage(run)
        self._console.say(
            f"tasks: {len(training)} for training, {len(self._validation)} for validation; "
            f"{self._num_steps} steps of {config.data.train_batch_size} tasks x "
            f"{config.rollout.num_repeat} episodes"
        )
        self._load_model(saved)
        self.keeper = CheckpointKeeper(run, self._policy, self._trainer, training)
        detectors = config.trainer_common.detectors.model_dump(exclude={"memory"})
        memory = dict(saved.state.health) if saved else {}
        self._health = Health(HealthSettings(**detectors), memory)
        self._state = saved.state if saved else self._state_after(0, {}, [], is_logged=True)
        if saved:
            go_on_from(saved, run, self._trainer)
            self.keeper.take_over(saved)
        self.metrics: dict[str, float | None] = dict(self._state.metrics)
        self._interrupt = Interrupt()
        self._step_seconds: list[float] = []
        self._validations = [Validation.from_record(v) for v in self._state.validations]

    def _make_order(self, saved: Saved | None) -> TaskOrder:
        batch_size = self._config.data.train_batch_size
        if saved is not None:
            return TaskOrder.from_state(
                saved.state.task_order, len(self._training), batch_size=batch_size
            )
        seed = self._config.trainer_common.seed
        return TaskOrder(len(self._training), batch_size=batch_size, seed=seed)

    def _count_steps(self) -> int:
        common = self._config.trainer_common
        steps = common.total_epochs * self._order.batches_per_epoch
        limit = common.total_training_steps
        return steps if limit is None else min(steps, limit)

    def _load_model(self, saved: Saved | None) -> None:
        base = find_model(self._run)
        # An adapter is put on the base anew; its weights come with the optimizer's state.
        is_whole = saved is not None and self._config.model.lora.rank is None
        source = str(saved.folder) if saved and is_whole else base
        placement = place(self._config, base)
        if placement.summary is not None:
            self._console.say(placement.summary)
        self._console.say(f"loading {source}")
        weight_version = saved.state.weight_version if saved else 0
        loaded = load_engine(self._run, source, weight_version=weight_version)
        self._policy, self._engine = loaded.policy, loaded.engine
        self._console.say(_what_is_trained(loaded.policy.model))
        self._trainer = PolicyTrainer(
            loaded.policy.model,
            trainer_settings(
                self._config,
                policy_loss=load_own_function(self._run, "policy_loss"),
                masters_in_host_memory=placement.masters_in_host_memory,
                moments_in_host_memory=placement.moments_in_host_memory,
            ),
            seed=self._config.trainer_common.seed,
            reference=self._load_reference(base) if saved else None,
        )
        self._starting_weights = self._keep_starting_weights(base, is_resumed=saved is not None)
        callers = PolicyCallers(loaded.engine.expect_callers)
        self._reference = ReferenceEngine(
            partial(make_reference_engine, self._run, loaded.policy),
            self._find_starting_weights,
            on_away=callers.set_away,
        )
        self._pool = make_pool(
            self._run,
            make_token_chat(self._run, loaded.engine, loaded.template),
            self._gateway,
            make_reference_chat=make_token_chat(
                self._run, self._reference, loaded.template, is_trained=False
            ),
            max_parallel=self._config.rollout.max_env_worker,
            timeout_seconds=self._config.rollout.episode_timeout_seconds,
            expect_callers=callers.set_in_flight,
        )

    def _keep_starting_weights(self, base: str, *, is_resumed: bool) -> PreTrainedModel | None:
        """Where the settings name the reference; a workflow may ask before the first update."""
        if self._config.rollout.untrained_model.model != REFERENCE or self._trainer.reference:
            return self._trainer.reference
        return self._load_frozen(base) if is_resumed else frozen_copy(self._policy.model)

    def _find_starting_weights(self) -> PreTrainedModel:
        if self._starting_weights is None:
            if self._engine.weight_version > 0:
                raise ConfigError(
                    "debug_model 'reference' was first asked for when the weights had changed "
                    f"already (weight version {self._engine.weight_version}); set "
                    "rollout.untrained_model.model: reference, so that a copy of the starting "
                    "weights is kept from the beginning"
                )
            self._starting_weights = frozen_copy(self._policy.model)
        return self._starting_weights

    def _load_reference(self, base: str) -> PreTrainedModel | None:
        """The weights that the run started from; None where no divergence is measured."""
        common = self._config.trainer_common
        if self._config.model.lora.rank is not None:
            return None
        if not (common.use_kl_loss or common.algorithm.use_kl_in_reward):
            return None
        return self._load_frozen(base)

    def _load_frozen(self, base: str) -> PreTrainedModel:
        model = self._config.model
        policy = load_policy(
            base, dtype=model.dtype, device=model.device, use_liger=model.use_liger
        )
        return policy.model.eval().requires_grad_(False)

    async def run_steps(self, interrupt: Interrupt) -> None:
        """All steps with their validations and checkpoints, until `interrupt` asks for an end."""
        self._interrupt = interrupt
        if not self._state.is_logged:
            await self._close_step()
        elif self._state.step == 0 and self._config.trainer_common.val_before_train:
            self.metrics = {"step": 0}
            await self._validate_and_log()
        while self._state.step < self._num_steps:
            interrupt.check()
            await self._run_step()
            self._check_health()
            await self._close_step()
            if self._is_due(self._config.trainer_common.save_freq):
                self.save()

    def _check_health(self) -> None:
        """Say what the detectors find. Raises BackboneError when the run is to stop."""
        for finding in self._health.check(self.metrics):
            if not finding.stops:
                self._console.say(f"warning: {finding.message}")
                continue
            self._write_metrics()
            good = self.keeper.latest
            message = f"{finding.message}. The last good checkpoint is {good or 'none yet'}"
            raise (_WeightsLost if finding.is_broken else BackboneError)(message)
        self._state = replace(self._state, health=dict(self._health.state))

    def _write_metrics(self) -> None:
        append_json_line(self._run.run_dir.metrics_file, self.metrics)
        self._log(self.metrics)

    def _is_due(self, frequency: int) -> bool:
        step = self._state.step
        return step == self._num_steps or step % frequency == 0

    async def _close_step(self) -> None:
        """Validate if it is time, and write the metrics."""
        await self._validate_and_log(skip=not self._is_due(self._config.trainer_common.test_freq))
        self._state = replace(
            self._state,
            metrics=self.metrics,
            is_logged=True,
            validations=[asdict(validation) for validation in self._validations],
        )

    async def _run_step(self) -> None:
        started = time.monotonic()
        step = self._state.step + 1
        groups, rollout = await self._collect_groups()
        batch = make_batch(
            groups,
            advantage=self._advantage,
            max_sequences=self._config.rollout.multi_turn.max_sample_per_task,
            penalty_of=self._penalty(groups),
        )
        self._console.phase(f"step {step}/{self._num_steps}: train")
        train = self._trainer.train_step(batch.samples, on_progress=self._on_train_progress)
        lags = [self._engine.weight_version - sample.weight_version for sample in batch.samples]
        if train["train/updates"]:
            self._engine.weights_updated()
        self._step_seconds.append(time.monotonic() - started)
        self.metrics = {
            "step": step,
            **rollout,
            "rollout/flat_groups": batch.num_flat_groups,
            "rollout/small_groups": batch.num_small_groups,
            "trajectory/dropped_sequences": batch.num_dropped_sequences,
            "rollout/weight_version": self._engine.weight_version,
            "rollout/weight_version_lag": max(lags, default=None),
            "train/kl": None,  # without a reference it is not known
            **train,
            "step/seconds": self._step_seconds[-1],
        }
        self._state = self._state_after(
            step, self.metrics, self._state.validations, best=self._state.best, is_logged=False
        )
        self._show_step(groups)

    def _state_after(
        self,
        step: int,
        metrics: dict[str, float | None],
        validations: list[dict[str, Any]],
        *,
        is_logged: bool,
        best: dict[str, float] | None = None,
    ) -> RunState:
        return RunState(
            step=step,
            num_updates=self._trainer.num_updates,
            weight_version=self._engine.weight_version,
            task_order=self._order.state(),
            metrics=metrics,
            is_logged=is_logged,
            validations=validations,
            health=dict(self._health.state),
            best=best,
        )

    async def _collect_groups(self) -> tuple[list[Group], dict[str, float | None]]:
        """Roll out a batch of tasks; with dynamic sampling, more for each group without spread.

        Returns at most a batch of groups, and the metrics of all that were rolled out.
        """
        size = self._config.data.train_batch_size
        max_refills = self._config.trainer_common.algorithm.dynamic_sampling_max_batches
        started, unsettled = time.monotonic(), self._engine.unsettled_passes
        num_refills = 0
        async with self._engine.serving(), self._reference.serving():
            groups = await self._roll_out(size, first_index=0)
            while num_refills < max_refills:
                num_missing = size - sum(map(is_useful, groups))
                if num_missing <= 0:
                    break
                groups += await self._roll_out(num_missing, first_index=len(groups))
                num_refills += 1
        await self._writer.flush()
        metrics: dict[str, float | None] = {
            **rollout_metrics(groups, seconds=time.monotonic() - started),
            "rollout/unsettled_passes": self._engine.unsettled_passes - unsettled,
            "rollout/refills": num_refills,
        }
        return sorted(groups, key=is_useful, reverse=True)[:size], metrics

    async def _roll_out(self, num_tasks: int, *, first_index: int) -> list[Group]:
        num_repeat, step = self._config.rollout.num_repeat, self._state.step + 1
        self._console.phase(f"step {step}/{self._num_steps}: rollout")
        tasks = [self._training[index] for index in self._order.next_batch(num_tasks)]
        return await self._pool.run(
            tasks,
            num_repeat=num_repeat,
            step=step,
            is_validation=False,
            on_episode=self._episode_writer(len(tasks) * num_repeat),
            first_index=first_index,
        )

    def _penalty(self, groups: Sequence[Group]) -> PenaltyOf:
        """What the settings ask to be taken off an episode's rewards."""
        algorithm = self._config.trainer_common.algorithm
        for_length = length_penalty(algorithm, max_tokens=self._config.data.max_response_length)
        if not algorithm.use_kl_in_reward:
            return for_length
        max_sequences = self._config.rollout.multi_turn.max_sample_per_task
        unweighted = [
            sample
            for group in groups
            for episode in group.judged
            for sample in make_samples(
                episode, advantage_of=lambda _: 0.0, max_sequences=max_sequences
            )[0]
        ]
        divergences = self._trainer.reference_divergences(unweighted)
        for_divergence = divergence_penalty(divergences)
        return lambda episode, agents: for_length(episode, agents) + for_divergence(episode, agents)

    async def _validate_and_log(self, *, skip: bool = False) -> None:
        """Add a validation to the step's metrics and write them, also when it is interrupted."""
        try:
            if self._validation and not skip:
                await self._validate()
        finally:
            self._write_metrics()

    async def _validate(self) -> None:
        num_repeat = self._config.rollout.val_kwargs.num_repeat
        self._console.phase("validation")
        async with self._engine.serving(), self._reference.serving():
            result = await validate(
                self._pool,
                self._validation,
                num_repeat=num_repeat,
                step=self._state.step,
                on_episode=self._episode_writer(len(self._validation) * num_repeat),
            )
        await self._writer.flush()
        self._validations.append(result)
        self.metrics |= result.metrics()
        self._console.say(result.line())

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

    def _on_train_progress(self, done: int, total: int) -> None:
        if self._trainer.num_updates == self._state.num_updates:
            # A step that has changed the weights is finished: only whole steps can be resumed.
            self._interrupt.check()
        self._console.advance(done, total, "tokens")

    def _show_step(self, groups: Sequence[Group]) -> None:
        left = self._time_left()
        self._console.say(step_line(self._state.step, self._num_steps, self.metrics, left))
        self._console.status(
            f"reward {number(self.metrics['reward/mean'], 3)}  "
            f"success {number(self.metrics['reward/success_rate'], 2)} "
            f"in step {self._state.step}, left {left}"
        )
        failure = commonest_failure([episode for group in groups for episode in group.episodes])
        if failure is not None:
            self._console.say(f"  failed episodes: {failure}")

    def _time_left(self) -> str:
        recent = self._step_seconds[-5:]
        return duration((self._num_steps - self._state.step) * sum(recent) / len(recent))

    def save(self) -> None:
        """Write a checkpoint of the last whole step."""
        self._state = self.keeper.save(self._state)

    def report(self) -> None:
        """Before and after, and where everything lies."""
        rows = [
            (
                f"step {result.step}",
                f"{result.success.rate:.3f}",
                f"[{result.success.low:.3f}, {result.success.high:.3f}]",
                f"{result.reward_mean:.3f}",
                f"{result.tokens_mean:.0f}",
            )
            for result in (self._validations[:1] + self._validations[-1:])[: len(self._validations)]
        ]
        if rows:
            columns = ("validation", "success", "95% interval", "reward", "tokens")
            self._console.table("before and after", columns, rows)
        self._console.say(f"run directory  {self._run.run_dir.root}")
        if self.keeper.latest is not None:
            self._console.say(f"checkpoint     {self.keeper.latest}")


def _what_is_trained(model: PreTrainedModel) -> str:
    num_all = sum(p.numel() for p in model.parameters())
    num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    how = "" if num_trained == num_all else f" of {num_all / 1e6:,.1f} million (LoRA)"
    return f"training {num_trained / 1e6:,.1f}{how or ' million'} parameters on {model.device}"
