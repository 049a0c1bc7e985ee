"""The warm start of a run: replies known to be good are learned before the first rollout.

Owns its updates, its lines in warm_start.jsonl and its checkpoint, which the first step begins from
and the reference is. What is learned is found in `warm_start_data.py`.
"""

import asyncio
import contextlib
import gc
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from astuner.algorithm.loss import negative_log_likelihood
from astuner.backbone.assemble import find_model
from astuner.backbone.interrupt import Interrupt, Interrupted, interrupted_by_signals
from astuner.backbone.local.fit import DeviceFit, fit_to_device
from astuner.backbone.local.serve import ChatPolicy, load_chat_policy
from astuner.backbone.local.settings import trainer_settings
from astuner.backbone.local.warm_start_data import given_conversations, read_warm_start
from astuner.backbone.run import Run
from astuner.clock import iso_utc
from astuner.config.same_run import hidden_digests
from astuner.config.secret import shown_settings
from astuner.console import duration
from astuner.errors import BackboneError
from astuner.models.checkpoint import read_record, save_checkpoint
from astuner.models.manifest import is_checkpoint
from astuner.models.supported import check_supported
from astuner.run_dir import append_json_line
from astuner.traces.reading import Unread
from astuner.training.held_out import mean_negative_log_likelihood
from astuner.training.settings import PolicyTrainerSettings
from astuner.training.trainer import PolicyTrainer
from astuner.types import Task
from astuner.warm_start.plan import WarmStartPlan, make_plan
from astuner.warm_start.samples import LearnedConversation

_FORMAT = 1
_NOTICE = "the warm start is not kept, and begins again with the next start"
_PHASE = "warm start"


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStarted:
    """How a warm start ended."""

    exit_code: int
    """0 where it is done, or nothing was to be done."""
    summary: str | None = None
    """What it gained, in a line; None where nothing was learned in this start."""


def find_warm_start(run: Run) -> Path | None:
    """The checkpoint that the first step begins from; None where that is model.path."""
    folder = run.run_dir.warm_start_dir
    wants_one = run.settings.trainer_common.warm_start.source is not None
    return folder if wants_one and is_checkpoint(folder) else None


async def warm_start(run: Run, tasks: Sequence[Task]) -> WarmStarted:
    """Do what the settings ask for and was not done in this run directory before.

    Raises ConfigError where there is nothing to learn from, BackboneError where training fails or
    an earlier warm start is damaged or gone.
    """
    if run.settings.trainer_common.warm_start.source is None:
        return WarmStarted(exit_code=0)
    if (done := find_warm_start(run)) is not None:
        record = read_record(done)
        run.console.say(f"{record['warm_start']['summary']}; done by an earlier start")
        return WarmStarted(exit_code=0)
    if run.is_resumed and run.run_dir.checkpoints():
        raise BackboneError(
            f"{run.run_dir.warm_start_dir}, which this run began from, is gone; put it back, or "
            "start a new run with the checkpoint as model.path and warm_start.from: null"
        )
    with interrupted_by_signals(run.console, notice=_NOTICE, grace=run.grace) as interrupt:
        try:
            summary = await _learn(run, tasks, interrupt)
        except (asyncio.CancelledError, Interrupted):
            if not interrupt.is_requested:
                raise
            return WarmStarted(exit_code=interrupt.exit_code)
        finally:
            _free_memory()
    return WarmStarted(exit_code=0, summary=summary)


def _free_memory() -> None:
    """The run loads the model again, and its optimizer."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


async def _learn(run: Run, tasks: Sequence[Task], interrupt: Interrupt) -> str:
    """Returns what it gained, in a line."""
    unread = Unread()
    given = given_conversations(run, tasks, unread)
    base = find_model(run)
    check_supported(base)
    device_fit = fit_to_device(run.settings, base)
    run.console.say(f"warm start: loading {base}")
    loaded = load_chat_policy(run, base)
    run.console.phase(f"{_PHASE}: conversations into tokens")

    def on_conversation(number: int) -> None:
        interrupt.check()
        run.console.advance(number, 0, "conversations")

    learned = await read_warm_start(
        run, loaded.template, given, unread, on_conversation=on_conversation
    )
    settings = run.settings.trainer_common
    plan = make_plan(
        learned,
        epochs=settings.warm_start.epochs,
        batch_size=settings.warm_start.batch_size,
        validation_share=settings.warm_start.validation_share,
        seed=settings.seed,
    )
    return _Updates(run, loaded, plan, device_fit, interrupt).run()


class _Updates:
    """The updates of one warm start."""

    def __init__(
        self,
        run: Run,
        loaded: ChatPolicy,
        plan: WarmStartPlan,
        device_fit: DeviceFit,
        interrupt: Interrupt,
    ) -> None:
        self._run, self._loaded, self._plan, self._interrupt = run, loaded, plan, interrupt
        self._settings = _settings(run, device_fit, num_updates=len(plan.updates))
        seed = run.settings.trainer_common.seed
        self._trainer = PolicyTrainer(loaded.policy.model, self._settings, seed=seed)
        self._started = time.monotonic()
        self._num_done_tokens = 0
        self._loss: float | None = None

    def run(self) -> str:
        run, plan = self._run, self._plan
        run.run_dir.check_is_there()
        if run.run_dir.warm_start_file.exists():  # of a start that was killed
            run.run_dir.set_lines_aside(run.run_dir.warm_start_file, lambda _line: False)
        run.console.say(self._plan_line())
        before = after = self._measure()
        self._write({"step": 0, **self._validation(before)})
        run.console.phase(_PHASE)
        for number, conversations in enumerate(plan.updates, start=1):
            metrics = self._update(number, conversations)
            if plan.is_measured_after(number):
                after = self._measure()
                metrics |= self._validation(after)
                self._say_epoch(number, after)
            self._write(metrics)
        summary = self._summary(before, after)
        self._save(summary, before=before, after=after)
        run.console.say(summary)
        return summary

    def _plan_line(self) -> str:
        plan = self._plan
        num_learned = len({one.name for update in plan.updates for one in update})
        return (
            f"warm start: {num_learned} conversations, {len(plan.held_out)} more held out; "
            f"{len(plan.updates)} updates, {plan.num_tokens:,} tokens"
        )

    def _update(
        self, number: int, conversations: Sequence[LearnedConversation]
    ) -> dict[str, float | None]:
        self._interrupt.check()
        samples = [sample for one in conversations for sample in one.samples]
        metrics = self._trainer.train_step(samples, on_progress=self._check)
        num_tokens = sum(one.num_tokens for one in conversations)
        self._num_done_tokens += num_tokens
        self._loss = metrics["train/loss"]
        seconds = metrics["train/seconds"] or math.inf
        self._show_progress()
        return {
            "step": number,
            "warm_start/loss": self._loss,
            "warm_start/epoch": number / self._plan.updates_per_epoch,
            "warm_start/conversations": float(len(conversations)),
            "warm_start/tokens": float(num_tokens),
            "warm_start/trained_tokens": metrics["train/tokens"],
            "warm_start/tokens_per_second": num_tokens / seconds,
            "warm_start/grad_norm": metrics["train/grad_norm"],
            "warm_start/lr": metrics["train/lr"],
            "warm_start/seconds": metrics["train/seconds"],
        }

    def _check(self, _done: int, _total: int) -> None:
        """Between the passes of an update; nothing of a warm start is kept before its end."""
        self._interrupt.check()

    def _measure(self) -> float:
        return mean_negative_log_likelihood(
            self._loaded.policy.model,
            [sample for one in self._plan.measured for sample in one.samples],
            max_tokens=self._settings.max_token_len_per_gpu,
            on_batch=self._interrupt.check,
        )

    def _validation(self, loss: float) -> dict[str, float | None]:
        return {"warm_start/validation_loss": loss} if self._plan.held_out else {}

    def _write(self, metrics: dict[str, float | None]) -> None:
        line = {"time": iso_utc(time.time()), **metrics}
        append_json_line(self._run.run_dir.warm_start_file, line)

    def _show_progress(self) -> None:
        done, total = self._num_done_tokens, self._plan.num_tokens
        seconds = time.monotonic() - self._started
        left = duration(seconds * (total - done) / done)
        note = f"tokens  loss {self._loss:.3f}  {done / seconds:.0f} tokens/s  left {left}"
        self._run.console.advance(done, total, note)

    def _say_epoch(self, number: int, measured: float) -> None:
        epoch = number / self._plan.updates_per_epoch
        self._run.console.say(
            f"warm start: epoch {epoch:.2f}  loss {self._loss:.3f}  {self._of_what} {measured:.3f}"
        )

    @property
    def _of_what(self) -> str:
        return "held out" if self._plan.held_out else "on what it learns"

    def _summary(self, before: float, after: float) -> str:
        measured = len(self._plan.measured)
        on = "held-out conversations" if self._plan.held_out else "of those that it learned"
        seconds = duration(time.monotonic() - self._started)
        return f"warm start: loss {before:.3f} → {after:.3f} on {measured} {on}, {seconds}"

    def _save(self, summary: str, *, before: float, after: float) -> None:
        run, folder = self._run, self._run.run_dir.warm_start_dir
        run.run_dir.check_is_there()
        run.console.phase(f"saving {folder}")
        with run.grace.saving() if run.grace else contextlib.nullcontext():
            save_checkpoint(
                folder,
                self._loaded.policy.model,
                self._loaded.policy.tokenizer,
                record=self._record(summary, before=before, after=after),
                tensors=None,
                is_merged_too=run.settings.trainer_common.save_merged,
            )

    def _record(self, summary: str, *, before: float, after: float) -> dict[str, Any]:
        run, plan = self._run, self._plan
        shown = shown_settings(run.settings, run.shown_as)
        return {
            "format": _FORMAT,
            "base_model": shown["model"]["path"],
            "warm_start": {
                "summary": summary,
                "loss_before": before,
                "loss_after": after,
                "is_held_out": bool(plan.held_out),
                "updates": len(plan.updates),
                "tokens": plan.num_tokens,
            },
            "settings": shown,
            "digests": hidden_digests(run.settings, run.shown_as),
        }


def _settings(run: Run, device_fit: DeviceFit, *, num_updates: int) -> PolicyTrainerSettings:
    """Those of the run's trainer, with the loss and the rate of a warm start."""
    warm_start = run.settings.trainer_common.warm_start
    settings = trainer_settings(
        run.settings,
        micro_batch_tokens=device_fit.micro_batch_tokens,
        policy_loss=negative_log_likelihood,
        masters_in_host_memory=device_fit.masters_in_host_memory,
        moments_in_host_memory=device_fit.moments_in_host_memory,
    )
    return replace(
        settings,
        optimizer=replace(
            settings.optimizer,
            learning_rate=warm_start.lr or settings.optimizer.learning_rate,
            warmup_updates=math.ceil(warm_start.warmup_share * num_updates),
        ),
        mini_batch_num=1,
        loss_aggregation="token-mean",
        importance_weight=None,
        use_kl_loss=False,
        kl_in_reward_coef=0.0,
    )
