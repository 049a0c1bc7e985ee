"""What a run says once it is over: what it gained, where its weights lie, and what to do with them.

Owns no numbers and no checkpoints: it is told which did best, and which is the last.
"""

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from astuner.backbone.reporter import Reporter
from astuner.backbone.run import Run, RunResult
from astuner.backbone.validation import Validation
from astuner.run_dir import BEST
from astuner.task_reader.naming_the_test import has_test_setting, setting_of_test


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedWeights:
    """The checkpoints that a run ended with, and what is known of them."""

    best: Path | None
    """By validation; None where none was validated."""
    last: Path
    num_validated: int
    """States of the weights that were validated after some training."""
    is_last_validated: bool
    rates: tuple[float, float] | None
    """Success before training and of the best; None where one is not known."""
    unsaved: tuple[int, float] | None = None
    """A step that did better than the best, and its success: its weights were not saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowingCommands:
    """What the commands behind a run are given."""

    conf_file: str
    overrides: Sequence[str]
    weights: str
    split: str | None
    """On which to evaluate; None: there are no tasks for it."""

    def lines(self) -> Iterator[str]:
        if self.split is not None:
            words = ("--conf", self.conf_file, "--model", self.weights, "--split", self.split)
            yield f"to evaluate    {shlex.join(('astuner', 'evaluate', *words, *self.overrides))}"
        yield f"to export      {shlex.join(('astuner', 'export', self.weights, '--to', 'hf'))}"
        yield f"to serve       {shlex.join(('astuner', 'serve', self.weights))}"


def end_run(run: Run, reporter: Reporter, *, exit_code: int) -> RunResult:
    """Show the table of what was gained, the checkpoints, and the commands for the best one."""
    say = run.console.say
    weights = _find_weights(run, reporter)
    best = weights.best if weights else None
    reporter.show_gain(None if best is None else _step_of(best))
    say(f"run directory  {run.run_dir.root}")
    if weights is not None:
        if exit_code != 0:
            step = int(reporter.metrics.get("step") or 0)
            say(f"it ended after step {step} of {reporter.num_steps or '?'}; --resume goes on")
        _show_following(run, reporter, weights)
    return RunResult(
        run_dir=run.run_dir.root,
        checkpoint=weights.last if weights else None,
        best_checkpoint=best,
        metrics=reporter.metrics,
        exit_code=exit_code,
    )


def _find_weights(run: Run, reporter: Reporter) -> TunedWeights | None:
    checkpoints = run.run_dir.checkpoints()
    if not checkpoints:
        return None
    best = reporter.best_of(checkpoints)
    last_step, last = next(iter(checkpoints.items()))
    before = reporter.validation_of(0)
    return TunedWeights(
        best=checkpoints[best.step] if best else None,
        last=last,
        num_validated=reporter.num_trained_validations,
        is_last_validated=reporter.validation_of(last_step) is not None,
        rates=(before.success.rate, best.success.rate) if before and best else None,
        unsaved=_better_unsaved(reporter, best),
    )


def _better_unsaved(reporter: Reporter, best: Validation | None) -> tuple[int, float] | None:
    top = reporter.best_of(range(1, sys.maxsize))
    if top is None or best is None or top.success.rate <= best.success.rate:
        return None
    return top.step, top.success.rate


def _show_following(run: Run, reporter: Reporter, weights: TunedWeights) -> None:
    say, best, last = run.console.say, weights.best, weights.last
    named = best_path(best) if best is not None and best != last else last
    for line in where_weights_lie(weights, best_as=named):
        say(line)
    reader = run.settings.task_reader
    commands = FollowingCommands(
        conf_file=from_home(run, run.conf_file or run.run_dir.config_file),
        overrides=[one for one in run.overrides if not one.startswith("astuner.backbone=")],
        weights=from_home(run, named),
        split=_split(has_test=has_test_setting(reader), has_validation=reporter.has_validation),
    )
    what_counts = _what_counts(weights, commands.split, setting_of_test(reader))
    what_was_lost = _what_was_lost(weights, run.settings.trainer_common.test_freq)
    for line in (*commands.lines(), *what_was_lost, *what_counts):
        say(line)


def where_weights_lie(weights: TunedWeights, *, best_as: Path) -> Iterator[str]:
    """The last checkpoint, and the best one where it is another."""
    if weights.best is None:
        yield f"checkpoint     {weights.last} (the last; no checkpoint was validated)"
    elif weights.best == weights.last:
        among = "the best by validation" if weights.unsaved is None else "the best that was saved"
        yield f"checkpoint     {weights.last} (the last, and {among})"
    else:
        how = "the last" if weights.is_last_validated else "the last; not validated"
        yield f"checkpoint     {weights.last} ({how})"
        yield f"best           {best_as} ({weights.best.name}, by validation)"


def _what_was_lost(weights: TunedWeights, test_freq: int) -> Iterator[str]:
    if weights.unsaved is not None:
        step, rate = weights.unsaved
        yield (
            f"step {step} did better in validation, success {rate:.3f}, and was not saved: "
            f"astuner.trainer_common.save_freq={test_freq} saves whenever there is a validation"
        )


def _what_counts(weights: TunedWeights, split: str | None, setting: str) -> Iterator[str]:
    """Which figures are not to be reported as they are, and where others come from."""
    if weights.rates is not None and weights.rates[1] <= weights.rates[0]:
        before, best = weights.rates
        yield (
            f"no checkpoint did better in validation than the weights before training: success "
            f"{best:.3f}, before {before:.3f}"
        )
    if split is None:
        yield f"it cannot be evaluated yet: name tasks for it in {setting}"
    elif weights.best is not None and weights.num_validated > 1:
        why = "the best was chosen by its validation, so that figure is too good"
        yield (
            f"{why}; report what the test split gives, which chose nothing"
            if split == "test"
            else f"{why}; for one to report, name tasks that choose nothing in {setting}"
        )


def best_path(best: Path) -> Path:
    """By the link to it, where links are possible."""
    link = best.with_name(BEST)
    return link if link.resolve() == best.resolve() else best


def _split(*, has_test: bool, has_validation: bool) -> str | None:
    if has_test:
        return "test"
    return "validation" if has_validation else None


def from_home(run: Run, path: Path) -> str:
    """As it may be typed in the folder that the run was started in."""
    return str(path.relative_to(run.home) if path.is_relative_to(run.home) else path)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step_"))
