"""Does what a run keeps fit on its disk? Asked before the first step.

Counts at the worst moment: a new checkpoint is whole before an old one goes. What checkpoints take
is known; of records only how long an episode may get, so those end no run before it starts, unless
earlier steps of it show what they take.
"""

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from transformers import PreTrainedModel

from astuner.backbone.record_bound import records_bytes, size_of
from astuner.backbone.run import Run
from astuner.config.schema import Settings
from astuner.console import data_size
from astuner.errors import BackboneError
from astuner.models.checkpoint import num_state_bytes, num_weights_bytes
from astuner.models.manifest import STATE_NAME
from astuner.run_dir import RunDir

_BYTES_OF_A_TOKEN = 40
"""Of one that was sampled, in the records: its id, its log-probability when it was sampled and when
it was trained, and its letters in messages. A given one takes about 8."""
_MOST_STEPS_MEASURED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPlan:
    """What decides how much is kept; changed copies of it are the advice."""

    keep_checkpoints: int | None
    save_optimizer: Literal["all", "latest", "never"]
    max_records_bytes: int | None
    has_best: bool
    """Whether the best by validation is kept beside the newest."""
    num_saves: int
    """Checkpoints that are still to be written."""
    num_steps: int
    """Steps that are still to be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFacts:
    """What the model and the run directory say."""

    weights_bytes: int
    """Of one checkpoint, without its training state."""
    state_bytes: int
    num_checkpoints: int
    """On the disk already."""
    num_states: int
    """Among them, with a training state."""
    records_bytes: int
    """On the disk already."""
    step_bytes: int
    """The records of a step: as measured, or else at most."""
    is_measured: bool
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskNeed:
    """What will be written at most beyond what is there, in bytes."""

    num_checkpoints: int
    """At one time, the one that is being written included."""
    checkpoints_bytes: int
    records_bytes: int

    @property
    def total(self) -> int:
        return self.checkpoints_bytes + self.records_bytes


def estimate_disk(plan: DiskPlan, facts: DiskFacts) -> DiskNeed:
    """What the rest of a run needs."""
    kept = math.inf if plan.keep_checkpoints is None else plan.keep_checkpoints + plan.has_best
    written = facts.num_checkpoints + plan.num_saves
    most = min(written, max(kept, facts.num_checkpoints) + 1) if plan.num_saves else 0
    most_states = {"all": most, "latest": min(2, most), "never": 0}[plan.save_optimizer]
    records = facts.step_bytes * plan.num_steps
    if plan.max_records_bytes is not None:
        records = min(records, max(0, plan.max_records_bytes - facts.records_bytes))
    return DiskNeed(
        num_checkpoints=int(most),
        checkpoints_bytes=facts.weights_bytes * max(0, int(most) - facts.num_checkpoints)
        + facts.state_bytes * max(0, int(most_states) - facts.num_states),
        records_bytes=records,
    )


def check_disk(
    run: Run, model: PreTrainedModel, *, first_step: int, num_steps: int, has_best: bool
) -> None:
    """Say what the run needs on its disk at most.

    `has_best` where checkpoints are validated. Raises BackboneError, with what would make it fit,
    where it cannot fit.
    """
    plan = disk_plan(run.settings, first_step=first_step, num_steps=num_steps, has_best=has_best)
    facts = _facts(run, model)
    for line in check_fit(plan, facts, folder=run.run_dir.root):
        run.console.say(line)


def check_fit(plan: DiskPlan, facts: DiskFacts, *, folder: Path) -> list[str]:
    """What there is to say of the room in the run directory `folder`; raises as `check_disk`."""
    need = estimate_disk(plan, facts)
    sure = need.checkpoints_bytes + (need.records_bytes if facts.is_measured else 0)
    said, free = _describe(plan, facts, need), data_size(facts.free_bytes)
    if sure > facts.free_bytes:
        advice = _smallest_change(plan, facts)
        raise BackboneError(
            f"the run will not fit into {folder}: it writes up to {said}, and {free} are free on "
            f"that disk. {f'It fits with {advice}. Or free' if advice else 'Free'} some space, or "
            "give another folder by --exp-dir or astuner.experiment_dir"
        )
    lines = [f"disk: at most {said} of {free} free in {folder}"]
    if need.total > facts.free_bytes:
        lines.append(
            "warning: episodes of full length would fill the disk; bound their records by "
            "astuner.trainer_common.max_records_mb"
        )
    return lines


def disk_plan(settings: Settings, *, first_step: int, num_steps: int, has_best: bool) -> DiskPlan:
    """Of the steps that are still to be done; `has_best` where checkpoints are validated."""
    common = settings.trainer_common
    steps = range(first_step + 1, num_steps + 1)
    records = common.max_records_mb
    return DiskPlan(
        keep_checkpoints=common.keep_checkpoints,
        save_optimizer=common.save_optimizer,
        max_records_bytes=None if records is None else records * 1_000_000,
        has_best=has_best,
        num_saves=sum(step == num_steps or step % common.save_freq == 0 for step in steps),
        num_steps=len(steps),
    )


def _facts(run: Run, model: PreTrainedModel) -> DiskFacts:
    checkpoints = run.run_dir.checkpoints().values()
    measured = _measured_step(run.run_dir)
    is_merged_too = run.settings.trainer_common.save_merged
    return DiskFacts(
        weights_bytes=num_weights_bytes(model, is_merged_too=is_merged_too),
        state_bytes=num_state_bytes(model),
        num_checkpoints=len(checkpoints),
        num_states=sum((folder / STATE_NAME).is_file() for folder in checkpoints),
        records_bytes=records_bytes(run.run_dir),
        step_bytes=measured or _longest_step(run.settings),
        is_measured=measured is not None,
        free_bytes=shutil.disk_usage(run.run_dir.root).free,
    )


def _measured_step(run_dir: RunDir) -> int | None:
    """The mean of the newest steps, with what was trained of them."""
    steps = run_dir.step_files()[-_MOST_STEPS_MEASURED:]
    files = [*steps, *(run_dir.training_dir / path.name for path in steps)]
    return sum(map(size_of, files)) // len(steps) if steps else None


def _longest_step(settings: Settings) -> int:
    data, rollout = settings.data, settings.rollout
    num_tokens = data.max_prompt_length + data.max_response_length
    return data.train_batch_size * rollout.num_repeat * num_tokens * _BYTES_OF_A_TOKEN


def _smallest_change(plan: DiskPlan, facts: DiskFacts) -> str | None:
    """The settings with which it fits; None where no choice of them is enough."""
    fewer = replace(plan, keep_checkpoints=1)
    choices = {
        "save_optimizer=latest": replace(plan, save_optimizer="latest"),
        "keep_checkpoints=1": fewer,
        "keep_checkpoints=1 and save_optimizer=latest": replace(fewer, save_optimizer="latest"),
        "save_optimizer=never": replace(plan, save_optimizer="never"),
        "keep_checkpoints=1 and save_optimizer=never": replace(fewer, save_optimizer="never"),
    }
    records = estimate_disk(plan, facts).records_bytes if facts.is_measured else 0
    for text, choice in choices.items():
        if estimate_disk(choice, facts).checkpoints_bytes + records <= facts.free_bytes:
            return " and ".join(f"astuner.trainer_common.{part}" for part in text.split(" and "))
    return None


def _describe(plan: DiskPlan, facts: DiskFacts, need: DiskNeed) -> str:
    one = data_size(facts.weights_bytes)
    if plan.save_optimizer != "never":
        of_which = " in the newest" if plan.save_optimizer == "latest" else ""
        one += f" and {data_size(facts.state_bytes)} of training state{of_which}"
    there = f", {facts.num_checkpoints} of them there already" if facts.num_checkpoints else ""
    records = data_size(need.records_bytes)
    noun = "checkpoint" if need.num_checkpoints == 1 else "checkpoints"
    return (
        f"{data_size(need.total)} ({need.num_checkpoints} {noun} of {one}{there}; records "
        f"{'as so far' if facts.is_measured else 'of full length'} {records})"
    )
