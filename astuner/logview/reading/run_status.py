"""How a run stands: at work, done, failed, interrupted or killed, and where it is.

Found anew each time, from small files; of a run by a release that wrote no events, from its log.
"""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, cast, get_args

from astuner.evaluation.facts import EvaluationFacts
from astuner.logview.reading.events import newest, seconds_of
from astuner.logview.reading.lines import json_object, own_file
from astuner.logview.reading.log_tail import end_in_log, last_said, planned_in_log
from astuner.logview.reading.metrics import Metrics, count_in
from astuner.machine.regular_file import open_regular
from astuner.run_dir import BEST, RunDir, RunKind
from astuner.types import finite_number

Status = Literal["running", "done", "failed", "interrupted", "killed", "unknown", "gone"]

_WRITTEN = (
    *("metrics.jsonl", "warm_start.jsonl", "run.log", "events.jsonl", "episodes", "training"),
    "started.json",
)
_STARTED_BYTES = 2**16
_RECENT_STEPS = 5
_REWARD = "validation/reward_mean"
_BY_SIGNAL = 128
"""Exit codes above it are those of a signal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationPoint:
    """One validation of a run."""

    step: int
    """After which it was; 0 before training."""
    rate: float
    """Share of its judged episodes that were a success."""
    low: float | None
    """Of its 95 % interval, as is `high`."""
    high: float | None
    num_episodes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """How a run stands. Times are in seconds since 1970; None is not known."""

    kind: RunKind
    status: Status
    last_line: str | None
    """Why it failed; else the last line of its log."""
    backbone: str | None
    model: str | None
    started: float | None
    """The first time."""
    ended: float | None
    last_written: float | None
    step: int | None
    """The last one with metrics."""
    num_steps: int | None
    """That were planned."""
    seconds_left: float | None
    num_starts: int
    reward_first: float | None
    """Mean reward of the first step that has one."""
    reward_last: float | None
    validation_first: ValidationPoint | None
    validation_last: ValidationPoint | None
    validation_reward: float | None
    """Mean of the last validation."""
    best_step: int | None
    """Of the checkpoint that did best in validation."""

    @property
    def trains(self) -> bool:
        return self.kind == "training"

    @property
    def seconds(self) -> float | None:
        """From the first start to the end; of a run at work, until now."""
        until = time.time() if self.status == "running" else self.ended or self.last_written
        return None if self.started is None or until is None else max(0.0, until - self.started)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How the last start of a run came out."""

    status: Status
    last_line: str | None
    ended: float | None


def run_status(
    root: Path,
    *,
    events: Sequence[Mapping[str, Any]],
    metrics: Metrics,
    log_tail: Sequence[str],
    num_configs: int,
    named: tuple[str | None, str | None],
    facts: EvaluationFacts | None,
) -> RunStatus:
    """Put together what is known; `named` are backbone and model by the configuration."""
    ending = _ending(root, events, log_tail)
    started = newest(events, "started")
    written = last_written(root)
    steps = [step for step in metrics.steps if step > 0]
    num_steps = _num_steps(events, log_tail)
    step = metrics.steps[-1] if metrics.steps else None
    rewards = [value for _, value in metrics.series("reward/mean") if value is not None]
    validations = validations_of(metrics)
    left = _seconds_left(metrics, steps, num_steps) if ending.status == "running" else None
    backbone = _text(started.get("backbone")) or named[0]
    return RunStatus(
        kind="evaluation" if facts is not None else _kind(root, backbone),
        status=ending.status,
        last_line=ending.last_line,
        backbone=backbone,
        model=(facts and facts.model) or _text(started.get("model")) or named[1],
        started=started_seconds(root),
        ended=None if ending.status == "running" else ending.ended or written,
        last_written=written,
        step=step,
        num_steps=num_steps,
        seconds_left=left,
        num_starts=max(num_configs, sum(event.get("event") == "started" for event in events)),
        reward_first=rewards[0] if rewards else None,
        reward_last=rewards[-1] if rewards else None,
        validation_first=validations[0] if validations else None,
        validation_last=validations[-1] if validations else None,
        validation_reward=next(
            (v for _, v in reversed(metrics.series(_REWARD)) if v is not None), None
        ),
        best_step=_best_step(root),
    )


def _kind(root: Path, backbone: str | None) -> RunKind:
    """By what it wrote at its start; earlier releases wrote nothing of it."""
    told = _started_record(root).get("kind")
    if told in get_args(RunKind):
        return cast("RunKind", told)
    return "debug" if backbone == "debug" else "training"


def _best_step(root: Path) -> int | None:
    """None where the link leads elsewhere, or the checkpoint is gone."""
    try:
        target = (root / "checkpoints" / BEST).resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: links that lead to each other
        return None
    best = RunDir(root=root).best_checkpoint() if target.is_relative_to(root) else None
    number = None if best is None else best.name.rpartition("_")[2]
    return count_in(int(number)) if number and len(number) < 19 else None


def validations_of(metrics: Metrics) -> list[ValidationPoint]:
    """Every validation whose rate is known, by step."""
    return [
        ValidationPoint(
            step=row["step"],
            rate=rate,
            low=finite_number(row.get("validation/success_rate_low")),
            high=finite_number(row.get("validation/success_rate_high")),
            num_episodes=_count(row.get("validation/episodes")),
        )
        for row in metrics.rows
        if (rate := finite_number(row.get("validation/success_rate"))) is not None
    ]


def started_seconds(root: Path) -> float | None:
    """When the run began: by what it wrote, else by the name of its folder."""
    told = seconds_of(_started_record(root).get("started"))
    if told is not None:
        return told
    with suppress(ValueError, OverflowError):
        return time.mktime(time.strptime(root.name[:19], "%Y-%m-%d_%H-%M-%S"))
    return None


def _started_record(root: Path) -> dict[str, Any]:
    """Empty where there is none, or none that can be read."""
    path = own_file(root, "started.json")
    with suppress(OSError, ValueError):
        if path is not None:
            with open_regular(path) as file:
                return json_object(file.read(_STARTED_BYTES))
    return {}


def last_written(root: Path) -> float | None:
    """When the run wrote something last, by the times of its files and folders."""
    times = []
    for name in _WRITTEN:
        with suppress(OSError):
            times.append(os.stat(root / name).st_mtime)
    return max(times, default=None)


def _ending(root: Path, events: Sequence[Mapping[str, Any]], log_tail: Sequence[str]) -> Ending:
    """How the last start came out, or that it goes on."""
    said = last_said(log_tail)
    if not os.path.isdir(root):
        return Ending(status="gone", last_line=said, ended=None)
    of_start = _of_last_start(events)
    ended = newest(of_start, "ended")
    if ended:
        return Ending(
            status=_status_of(ended),
            last_line=_error_of(ended) or _signal_of(ended) or said,
            ended=seconds_of(ended.get("time")),
        )
    if RunDir(root=root).worker() is not None:
        return Ending(status="running", last_line=said, ended=None)
    if of_start:
        return Ending(status="killed", last_line=said, ended=None)
    return Ending(status=end_in_log(log_tail) or "unknown", last_line=said, ended=None)


def _of_last_start(events: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    starts = [i for i, event in enumerate(events) if event.get("event") == "started"]
    return events[starts[-1] :] if starts else events


def _status_of(ended: Mapping[str, Any]) -> Status:
    code = ended.get("exit_code")
    if code == 0:
        return "done"
    is_signal = isinstance(code, int) and code > _BY_SIGNAL
    return "interrupted" if is_signal else "failed"


def _error_of(ended: Mapping[str, Any]) -> str | None:
    error = ended.get("error")
    if not isinstance(error, dict):
        return None
    parts = (_text(error.get("kind")), _text(error.get("message")))
    return ": ".join(part for part in parts if part) or None


def _signal_of(ended: Mapping[str, Any]) -> str | None:
    """Of an end by one, in words; the log ends as that of a run that is done."""
    if _status_of(ended) != "interrupted":
        return None
    number = ended["exit_code"] - _BY_SIGNAL
    with suppress(ValueError):
        return f"ended by {signal.Signals(number).name}"
    return None


def _num_steps(events: Sequence[Mapping[str, Any]], log_tail: Sequence[str]) -> int | None:
    planned = newest(events, "planned")
    return _count(planned.get("num_steps")) if planned else planned_in_log(log_tail)


def _seconds_left(metrics: Metrics, steps: Sequence[int], num_steps: int | None) -> float | None:
    """By the mean of the last steps' seconds, the validations among them left out."""
    known = [value for _, value in metrics.series("step/seconds") if value is not None]
    if num_steps is None or not known or not steps:
        return None
    return fmean(known[-_RECENT_STEPS:]) * max(0, num_steps - steps[-1])


def _count(value: object) -> int | None:
    number = finite_number(value)
    return None if number is None else count_in(int(number))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
