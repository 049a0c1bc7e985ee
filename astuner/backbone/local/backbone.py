"""The loop of the local backbone: roll out, judge, train, measure, save; again.

One process and one model. Owns the order of the phases and what is written when; the engine
samples, the trainer updates, and neither knows of the other.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from astuner.algorithm.advantage import ADVANTAGES
from astuner.backbone.assemble import make_pool, make_token_chat, read_tasks
from astuner.backbone.interrupt import Interrupt, Interrupted, interrupt_on_ctrl_c
from astuner.backbone.local.batch import make_batch, rollout_metrics
from astuner.backbone.local.checkpoint import save_checkpoint
from astuner.backbone.local.serve import load_engine
from astuner.backbone.local.settings import trainer_settings
from astuner.backbone.local.trainer import PolicyTrainer
from astuner.backbone.run import Run, RunResult
from astuner.backbone.validation import Validation, validate
from astuner.console import duration, step_line
from astuner.errors import AstunerError, BackboneError
from astuner.logview.record import episode_to_record
from astuner.rollout.pool import commonest_failure
from astuner.run_dir import EpisodeKind, append_json_line
from astuner.task_reader.order import TaskOrder
from astuner.trajectory.episode import Episode, Group
from astuner.types import Task


class LocalBackbone:
    """Tunes a model on this machine."""

    async def run(self, run: Run) -> RunResult:
        training, validation = read_tasks(run)
        loop = _Loop(run, training, validation)
        notice = "the weights are saved first"
        with interrupt_on_ctrl_c(run.console, notice=notice) as interrupt:
            try:
                await loop.run_steps(interrupt)
            except (asyncio.CancelledError, Interrupted):
                if not interrupt.is_requested:
                    raise
                loop.save()
            except AstunerError:
                # What was learned is kept. A full disk refuses again, and the first error counts.
                with contextlib.suppress(BackboneError):
                    loop.save()
                raise
        loop.report()
        return RunResult(
            run_dir=run.run_dir.root,
            checkpoint=loop.checkpoint,
            metrics=loop.metrics,
            is_interrupted=interrupt.is_requested,
        )


class _Loop:
    """The state of one run: how many steps are done, and the parts that do them."""

    def __init__(self, run: Run, training: Sequence[Task], validation: Sequence[Task]) -> None:
        config = run.settings
        self._run, self._config, self._console = run, config, run.console
        self._training = training
        self._validation = validation[: config.data.max_validation_tasks]
        self._order = TaskOrder(
            len(training),
            batch_size=config.data.train_batch_size,
            seed=config.trainer_common.seed,
        )
        self._num_steps = self._count_steps()
        self._console.say(
            f"tasks: {len(training)} for training, {len(self._validation)} for validation; "
            f"{self._num_steps} steps of {config.data.train_batch_size} tasks x "
            f"{config.rollout.num_repeat} episodes"
        )
        self._load_model()
        self.metrics: dict[str, float | None] = {}
        self.checkpoint: Path | None = None
        self._interrupt = Interrupt()
        self._step = 0
        self._step_seconds: list[float] = []
        self._validations: list[Validation] = []

    def _count_steps(self) -> int:
        common = self._config.trainer_common
        steps = common.total_epochs * self._order.batches_per_epoch
        limit = common.total_training_steps
        return steps if limit is None else min(steps, limit)

    def _load_model(self) -> None:
        self._console.say(f"loading {self._config.model.path}")
        loaded = load_engine(self._run)
        self._policy, self._engine = loaded.policy, loaded.engine
        self._trainer = PolicyTrainer(
            loaded.policy.model,
            trainer_settings(self._config),
            rng=random.Random(self._config.trainer_common.seed),
        )
        self._pool = make_pool(
            self._run,
            make_token_chat(self._run, loaded.engine, loaded.template),
            max_parallel=self._config.rollout.max_env_worker,
            timeout_seconds=self._config.rollout.episode_timeout_seconds,
            expect_callers=loaded.engine.expect_callers,
        )

    async def run_steps(self, interrupt: Interrupt) -> None:
        """All steps with their validations and checkpoints, until `interrupt` asks for an end."""
        self._interrupt = interrupt
        common = self._config.trainer_common
        if common.val_before_train:
            self.metrics = {"step": 0}
            await self._validate_and_log()
        while self._step < self._num_steps:
            await self._run_step()
            is_last = self._step == self._num_steps
            await self._validate_and_log(skip=not (is_last or self._step % common.test_freq == 0))
            if is_last or self._step % common.save_freq == 0:
                self.save()

    async def _run_step(self) -> None:
        started = time.monotonic()
        tasks = [self._training[index] for index in self._order.next_batch()]
        groups, rollout = await self._roll_out(tasks)
        batch = make_batch(
            groups,
            advantage=ADVANTAGES[self._config.trainer_common.algorithm.adv_estimator],
            max_sequences=self._config.rollout.multi_turn.max_sample_per_task,
        )
        self._console.phase(f"step {self._step + 1}/{self._num_steps}: train")
        train = self._trainer.train_step(batch.samples, on_progress=self._on_train_progress)
        if train["train/updates"]:
            self._engine.weights_updated()
        self._step += 1
        self._step_seconds.append(time.monotonic() - started)
        self.metrics = {
            "step": self._step,
            **rollout,
            "rollout/flat_groups": batch.num_flat_groups,
            "rollout/small_groups": batch.num_small_groups,
            "trajectory/dropped_sequences": batch.num_dropped_sequences,
            "train/kl": None,  # without a reference it is not known
            **train,
            "step/seconds": self._step_seconds[-1],
        }
        self._show_step(groups)

    async def _roll_out(self, tasks: Sequence[Task]) -> tuple[list[Group], dict[str, float]]:
        num_repeat, step = self._config.rollout.num_repeat, self._step + 1
        self._console.phase(f"step {step}/{self._num_steps}: rollout")
        started, unsettled = time.monotonic(), self._engine.unsettled_passes
        async with self._engine.serving():
            groups = await self._pool.run(
                tasks,
                num_repeat=num_repeat,
                step=step,
                is_validation=False,
                on_episode=self._episode_writer("train", step, len(tasks) * num_repeat),
            )
        metrics = rollout_metrics(groups, seconds=time.monotonic() - started)
        metrics["rollout/unsettled_passes"] = self._engine.unsettled_passes - unsettled
        return groups, metrics

    async def _validate_and_log(self, *, skip: bool = False) -> None:
        """Add a validation to the step's metrics and write them, also when it is interrupted."""
        try:
            if self._validation and not skip:
                await self._validate()
        finally:
            append_json_line(self._run.run_dir.metrics_file, self.metrics)

    async def _validate(self) -> None:
        num_repeat = self._config.rollout.val_kwargs.num_repeat
        self._console.phase("validation")
        async with self._engine.serving():
            result = await validate(
                self._pool,
                self._validation,
                num_repeat=num_repeat,
                step=self._step,
                on_episode=self._episode_writer(
                    "validation", self._step, len(self._validation) * num_repeat
                ),
            )
        self._validations.append(result)
        self.metrics |= result.metrics()
        self._console.say(
            f"validation after step {self._step}: success {result.success.rate:.3f} "
            f"[{result.success.low:.3f}, {result.success.high:.3f}]  "
            f"reward {result.reward_mean:.3f}  {result.tokens_mean:.0f} tokens an episode"
        )

    def _episode_writer(
        self, kind: EpisodeKind, step: int, total: int
    ) -> Callable[[Episode], None]:
        """Writes each finished episode and moves the progress bar."""
        path = self._run.run_dir.episodes_file(step, kind)
        started, tokens_before, done = time.monotonic(), self._engine.tokens_sampled, 0

        def write(episode: Episode) -> None:
            nonlocal done
            done += 1
            append_json_line(path, episode_to_record(episode))
            speed = (self._engine.tokens_sampled - tokens_before) / (time.monotonic() - started)
            self._console.advance(done, total, f"episodes, {speed:.0f} tokens/s")

        return write

    def _on_train_progress(self, done: int, total: int) -> None:
        self._interrupt.check()
        self._console.advance(done, total, "tokens")

    def _show_step(self, groups: Sequence[Group]) -> None:
        left = self._time_left()
        self._console.say(step_line(self._step, self._num_steps, self.metrics, left))
        self._console.status(
            f"reward {self.metrics['reward/mean']:.3f}  "
            f"success {self.metrics['reward/success_rate']:.2f} in step {self._step}, left {left}"
        )
        failure = commonest_failure([episode for group in groups for episode in group.episodes])
        if failure is not None:
            self._console.say(f"  failed episodes: {failure}")

    def _time_left(self) -> str:
        recent = self._step_seconds[-5:]
        return duration((self._num_steps - self._step) * sum(recent) / len(recent))

    def save(self) -> None:
        """Write checkpoints/step_N unless it is there already, or nothing was trained yet."""
        folder = self._run.run_dir.checkpoint_dir(self._step)
        if self._step == 0 or self.checkpoint == folder:
            return
        self._console.phase(f"saving {folder}")
        save_checkpoint(
            folder,
            self._policy.model,
            self._policy.tokenizer,
            extra={
                "step": self._step,
                "weight_version": self._engine.weight_version,
                "base_model": self._config.model.path,
                "task_order": self._order.state(),
            },
        )
        self.checkpoint = folder

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
        if self.checkpoint is not None:
            self._console.say(f"checkpoint     {self.checkpoint}")
