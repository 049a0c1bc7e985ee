"""What is written down and shown of the steps of a run, on every backbone.

Owns metrics.jsonl and the loggers beside it, the lines about steps and validations on the screen,
what the detectors remember, and how much time is left. Where the numbers come from, and when a step
is validated, is the business of who runs the steps.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from astuner.algorithm.health import Health, HealthSettings
from astuner.backbone.loggers import LogMetrics
from astuner.backbone.run import Run
from astuner.backbone.run_events import RunEvents
from astuner.backbone.validation import Validation
from astuner.clock import iso_utc
from astuner.console import duration, number, step_line
from astuner.errors import BackboneError
from astuner.run_dir import append_json_line, read_json_lines

_NUM_RECENT = 5
"""Steps whose mean time tells how long the others will take."""


class WeightsLost(BackboneError):
    """The weights are broken, so they are not to be saved over a checkpoint that works."""


class Reporter:
    """Told of the steps and validations of one run, in their order."""

    def __init__(self, run: Run, log: LogMetrics, *, num_steps: int | None) -> None:
        """`log` takes each line of metrics too; `num_steps` is None where nobody knows the end."""
        self._run_dir, self._console = run.run_dir, run.console
        self._log, self._num_steps = log, num_steps
        self._events = RunEvents(run.run_dir)
        detectors = run.settings.trainer_common.detectors.model_dump(exclude={"memory"})
        self._health = Health(HealthSettings(**detectors))
        self._validations: list[Validation] = []
        self._unwritten: dict[int, Validation] = {}
        """By the step whose line they are to join."""
        self._step_seconds: list[float] = []
        self.has_validation = False
        """Whether there are tasks for it."""
        self.metrics: dict[str, float | None] = {}
        """Of the step of the line that was written last, with its other lines."""

    def plan(
        self, *, num_tasks: int, num_validation_tasks: int, num_test_tasks: int | None = None
    ) -> None:
        """Write down what the run is about to do."""
        self.has_validation = num_validation_tasks > 0
        self._events.planned(
            num_steps=self._num_steps,
            num_tasks=num_tasks,
            num_validation_tasks=num_validation_tasks,
            num_test_tasks=num_test_tasks,
        )

    def go_on_from(
        self,
        metrics: Mapping[str, float | None],
        *,
        validations: Sequence[Mapping[str, Any]],
        health: Mapping[str, Any],
    ) -> None:
        """Remember what an earlier start of the run remembered."""
        self.metrics = dict(metrics)
        self._validations = [Validation.from_record(record) for record in validations]
        self._health.state = dict(health)

    @property
    def validations(self) -> list[dict[str, Any]]:
        """All of the run so far, for another start of it."""
        return [asdict(validation) for validation in self._validations]

    @property
    def health(self) -> dict[str, Any]:
        """What the detectors remember, for another start of the run."""
        return dict(self._health.state)

    def show_step(
        self, metrics: Mapping[str, float | None], *, commonest_failure: str | None = None
    ) -> None:
        """Say how a step went, and why episodes of it failed."""
        step = int(metrics["step"] or 0)
        self._step_seconds.append(metrics.get("step/seconds") or 0.0)
        left = self._time_left(step)
        self._console.say(step_line(step, self._num_steps, metrics, left))
        self._console.status(
            f"reward {number(metrics['reward/mean'], 3)}  "
            f"success {number(metrics['reward/success_rate'], 2)} in step {step}, left {left}"
        )
        if commonest_failure is not None:
            self._console.say(f"  failed episodes: {commonest_failure}")

    def _time_left(self, step: int) -> str:
        if self._num_steps is None:
            return duration(None)
        recent = self._step_seconds[-_NUM_RECENT:]
        return duration((self._num_steps - step) * sum(recent) / len(recent))

    def check_health(self, metrics: Mapping[str, float | None], *, last_good: Path | None) -> None:
        """Say what the detectors find in a step's metrics, and write it down.

        Raises BackboneError, with the checkpoint that is `last_good`, where the run is to stop:
        WeightsLost where the weights are to blame.
        """
        for finding in self._health.check(metrics):
            self._events.found(finding, step=int(metrics["step"] or 0))
            if finding.stops:
                message = (
                    f"{finding.message}. The last good checkpoint is {last_good or 'none yet'}"
                )
                raise (WeightsLost if finding.is_broken else BackboneError)(message)
            self._console.warn(finding.message)

    def take_validation(self, validation: Validation) -> None:
        """Say how it went; the line of its step that is written next has its metrics."""
        self._console.say(validation.line())
        self._validations.append(validation)
        self._unwritten[validation.step] = validation

    def write(self, metrics: Mapping[str, float | None]) -> None:
        """Write a line of metrics.jsonl, with the validation of its step if there is one by now.

        It also says when it was written.
        Raises BackboneError where the run directory is gone.
        """
        validation = self._unwritten.pop(int(metrics["step"] or 0), None)
        written = {**metrics, **(validation.metrics() if validation else {})}
        is_same_step = metrics["step"] == self.metrics.get("step")
        self.metrics = {**self.metrics, **written} if is_same_step else written
        self._run_dir.check_is_there()
        append_json_line(self._run_dir.metrics_file, {"time": iso_utc(time.time()), **written})
        self._log(written)

    def recall_validations(self) -> None:
        """Those of earlier starts that metrics.jsonl has, where nobody else kept them.

        The best of the checkpoints that are left is marked, which the next one spares.
        """
        path = self._run_dir.metrics_file
        lines = read_json_lines(path) if path.exists() else ()
        found = (Validation.from_metrics(line) for line in lines)
        self._validations = [validation for validation in found if validation is not None]
        self.mark_best()

    def best_of(self, steps: Collection[int]) -> Validation | None:
        """Of these steps, the one that did best in validation, the earliest of equals; None where
        none was validated."""
        among = [one for one in self._validations if one.step in steps]
        return max(among, key=lambda one: (one.success.rate, -one.step), default=None)

    def mark_best(self) -> None:
        """Make the link `best` lead to the checkpoint that did best so far."""
        checkpoints = self._run_dir.checkpoints()
        if (best := self.best_of(checkpoints)) is not None:
            self._run_dir.point_best_to(checkpoints[best.step])

    def validation_of(self, step: int) -> Validation | None:
        """None where the step was not validated."""
        found = (one for one in self._validations if one.step == step)
        return next(found, None)

    @property
    def num_trained_validations(self) -> int:
        """Those after some training."""
        return sum(validation.step > 0 for validation in self._validations)

    @property
    def num_steps(self) -> int | None:
        """Of the whole run; None where nobody knows the end."""
        return self._num_steps

    def show_gain(self, best_step: int | None) -> None:
        """Show the first validation, that of the best checkpoint and the last one side by side."""
        rows = [
            (
                label,
                f"{validation.success.rate:.3f}",
                f"[{validation.success.low:.3f}, {validation.success.high:.3f}]",
                f"{validation.reward_mean:.3f}",
                f"{validation.tokens_mean:.0f}",
            )
            for label, validation in _labelled(self._validations, best_step)
        ]
        if not rows:
            return
        columns = ("validation", "success", "95% interval", "reward", "tokens")
        self._console.table("before and after", columns, rows)


def _labelled(
    validations: Sequence[Validation], best_step: int | None
) -> list[tuple[str, Validation]]:
    """The first, the best and the last, each once, with what it is."""
    if not validations:
        return []
    first, last = validations[0], validations[-1]
    roles: dict[int, list[str]] = {}
    for role, step in (
        ("before" if first.step == 0 else "first", first.step),
        ("best", best_step),
        ("last", last.step),
    ):
        if step is not None:
            roles.setdefault(step, []).append(role)
    if len(roles) == 1:
        return [(f"step {first.step}", first)]
    by_step = {validation.step: validation for validation in validations}
    return [
        (f"{' and '.join(names)}, step {step}", by_step[step])
        for step, names in sorted(roles.items())
        if step in by_step
    ]
