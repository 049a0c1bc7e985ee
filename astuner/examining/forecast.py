"""About how long a run takes and what it writes: arithmetic over a few measurements."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from astuner.console import duration
from astuner.examining.finding import DoctorFinding, Remarks
from astuner.trajectory.episode import Episode

_SAY = Remarks("forecast")
_REFERENCE_SHARE = 0.3
"""Of a training step that scoring by frozen weights adds: a forward pass of three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeMeans:
    """Of an episode, as the few that ran show it."""

    num_sampled: float
    """Tokens."""
    num_prompt: float
    """Tokens that were given, of its sequences."""
    waiting_seconds: float
    """Outside of the model and the judge."""
    judging_seconds: float
    longest_seconds: float

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> "EpisodeMeans | None":
        """None where none came to its end."""
        ended = [episode for episode in episodes if episode.failure is None and episode.calls]
        if not ended:
            return None
        num_sampled = sum(episode.num_sampled_tokens for episode in ended)
        num_ids = sum(len(s.ids) for episode in ended for s in episode.sequences)
        sampled = sum(s.num_sampled for episode in ended for s in episode.sequences)
        judging = sum(episode.judging_seconds for episode in ended)
        engine = sum(episode.engine_seconds for episode in ended)
        whole = sum(episode.seconds for episode in ended)
        return cls(
            num_sampled=num_sampled / len(ended),
            num_prompt=(num_ids - sampled) / len(ended),
            waiting_seconds=max(0.0, whole - engine - judging) / len(ended),
            judging_seconds=judging / len(ended),
            longest_seconds=max(episode.seconds for episode in ended),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """What was measured."""

    sampled_per_second: float
    """Tokens, by the engine with many replies at a time."""
    trained_per_second: float | None
    """Tokens of samples; None where nothing was trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a run will do."""

    num_steps: int
    batch_size: int
    num_repeat: int
    max_parallel: int
    """Episodes at a time."""
    num_validations: int
    num_validation_episodes: int
    """Of each validation."""
    has_reference: bool

    @property
    def episodes_of_step(self) -> int:
        return self.batch_size * self.num_repeat


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """About what will be."""

    rollout_seconds: float
    """Of a step."""
    training_seconds: float | None
    """Of a step."""
    validation_seconds: float
    """Of one validation."""
    seconds: float
    """Of the whole run."""
    num_sampled_tokens: float
    """Of the whole run."""


def forecast(plan: RunPlan, means: EpisodeMeans, speeds: Speeds) -> Forecast:
    """Rollouts last as long as their tokens at the measured speed, or as long as waiting takes with
    so many episodes at a time, and no shorter than one episode."""
    rollout = _rollout_seconds(plan.episodes_of_step, plan.max_parallel, means, speeds)
    training = None
    if speeds.trained_per_second:
        # A group's prompt is packed once.
        tokens = plan.batch_size * (means.num_prompt + plan.num_repeat * means.num_sampled)
        training = tokens / speeds.trained_per_second * (1 + _REFERENCE_SHARE * plan.has_reference)
    validation = _rollout_seconds(plan.num_validation_episodes, plan.max_parallel, means, speeds)
    num_episodes = (
        plan.num_steps * plan.episodes_of_step + plan.num_validations * plan.num_validation_episodes
    )
    return Forecast(
        rollout_seconds=rollout,
        training_seconds=training,
        validation_seconds=validation,
        seconds=plan.num_steps * (rollout + (training or 0.0)) + plan.num_validations * validation,
        num_sampled_tokens=num_episodes * means.num_sampled,
    )


def _rollout_seconds(
    num_episodes: int, max_parallel: int, means: EpisodeMeans, speeds: Speeds
) -> float:
    if not num_episodes:
        return 0.0
    sampling = num_episodes * means.num_sampled / max(speeds.sampled_per_second, 1e-9)
    rounds = math.ceil(num_episodes / max_parallel)
    beside = rounds * (means.waiting_seconds + means.judging_seconds)
    return max(sampling + beside, min(means.longest_seconds, sampling + means.longest_seconds))


def describe(
    found: Forecast, plan: RunPlan, speeds: Speeds, *, num_measured: int
) -> list[DoctorFinding]:
    """In words, with what is assumed."""
    step = found.rollout_seconds + (found.training_seconds or 0.0)
    training = (
        "training not measured"
        if found.training_seconds is None
        else f"{_seconds(found.training_seconds)} training"
    )
    findings = [
        _SAY.fine(
            "a step",
            f"about {_seconds(step)}: {_seconds(found.rollout_seconds)} rollouts of "
            f"{plan.episodes_of_step} episodes, {training}",
        ),
        _SAY.fine(
            "the run",
            f"about {duration(found.seconds)} for {plan.num_steps} steps and "
            f"{plan.num_validations} validations, {_count(found.num_sampled_tokens)} sampled "
            "tokens",
        ),
        _SAY.fine(
            "assumed",
            f"episodes like the {num_measured} that ran, {speeds.sampled_per_second:.0f} tokens/s "
            "of the engine with several at a time, and lengths that do not grow; take it as half "
            "to twice",
        ),
    ]
    return findings


def describe_disk(lines: Sequence[str]) -> list[DoctorFinding]:
    """Of what `check_fit` says."""
    findings = []
    for line in lines:
        if line.startswith("warning: "):
            findings.append(_SAY.warning("disk", line.removeprefix("warning: ")))
        else:
            findings.append(_SAY.fine("disk", line.removeprefix("disk: ")))
    return findings


def disk_is_too_small(message: str) -> DoctorFinding:
    return _SAY.wrong("disk", message)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def _count(number: float) -> str:
    for size, unit in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f}"
