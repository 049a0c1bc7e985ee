"""Is a run learning? Its validations and rewards, and what else is worth a look, in sentences."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astuner.logview.reading.index import OutcomeCounts
from astuner.logview.reading.metrics import Metrics
from astuner.logview.reading.run_status import RunStatus, ValidationPoint, validations_of
from astuner.logview.view.curves import Point, points_of
from astuner.logview.view.words import count, number, share
from astuner.run_dir import RunKind

_FEW_STEPS = 3
"""Fewer in a row may be an accident."""
_GAP_GREW = 3.0
_GAP_COUNTS = 0.02
"""Nats: below, a gap that grows is still rounding."""
_ENTROPY_LEFT = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningAnswer:
    """Whether it is better than at the start; what stands first on the page of a run."""

    before: str | None
    now: str | None
    of: str
    """Goes on behind the number, as in "of 88 validation tasks solved"."""
    verdict: str
    """One sentence; empty where there is nothing to compare."""
    interval: str
    """As in "95% interval 0.78 to 0.92"; empty where it is not known."""


def answer(
    first: ValidationPoint | None,
    last: ValidationPoint | None,
    rewards: Sequence[Point],
    *,
    is_one_episode_a_task: bool,
    is_over: bool = False,
) -> LearningAnswer:
    """From the first and newest validation, or from the rewards where there is none."""
    if last is None:
        return _answer_of_rewards(rewards, is_over=is_over)
    noun = "validation tasks" if is_one_episode_a_task else "validation episodes"
    of = f"of {number(last.num_episodes)} {noun} solved" if last.num_episodes else f"{noun} solved"
    has_two = first is not None and first.step != last.step
    return LearningAnswer(
        before=share(first.rate) if first is not None and has_two else None,
        now=share(last.rate),
        of=of if has_two else f"{of} at step {last.step}",
        verdict=_verdict(first, last) if first is not None and has_two else "",
        interval=f"95% interval {share(last.low)} to {share(last.high)}"
        if last.low is not None and last.high is not None
        else "",
    )


_UNTRAINED: Mapping[RunKind, str] = {
    "debug": "The debug backbone trains nothing.",
    "evaluation": "An evaluation trains nothing.",
    "measurement": "It measures how often tasks are solved, and trains nothing.",
}


def answer_untrained(found: OutcomeCounts, *, kind: RunKind) -> LearningAnswer:
    """Of a run that trains nothing: what came of its episodes."""
    failed = f", {number(found.num_failed)} failed" if found.num_failed else ""
    return LearningAnswer(
        before=None,
        now=number(found.num_solved) if found.num_episodes else None,
        of=f"of {count(found.num_episodes, 'episode')} solved{failed}"
        if found.num_episodes
        else "No episode has ended yet.",
        verdict=_UNTRAINED.get(kind, ""),
        interval="",
    )


def best_checkpoint(state: RunStatus, metrics: Metrics) -> str | None:
    """Which one is the best, in words; None where none is known to be."""
    if state.best_step is None:
        return None
    found = {point.step: point for point in validations_of(metrics)}.get(state.best_step)
    solved = f", {share(found.rate)} solved in validation" if found else ""
    last = " and the last one" if state.best_step == state.step else ""
    return f"step {state.best_step}{last}{solved}"


def warm_start_line(metrics: Metrics) -> str | None:
    """What a warm start gained by now, in words; None where there was none."""
    for name, what in (
        ("warm_start/validation_loss", "held-out loss"),
        ("warm_start/loss", "loss"),
    ):
        points = [value for _, value in metrics.series(name) if value is not None]
        if points:
            return f"{what} {points[0]:.3f} → {points[-1]:.3f} in {metrics.steps[-1]} updates"
    return None


def without_step(message: str, step: int | None) -> str:
    """What a detector said, where its step stands before it already."""
    return message.removeprefix(f"step {step}: ")


def _verdict(first: ValidationPoint, last: ValidationPoint) -> str:
    ends = (first.low, first.high, last.low, last.high)
    if any(end is None for end in ends):
        return ""
    first_low, first_high, last_low, last_high = (end for end in ends if end is not None)
    if last_low > first_high:
        return f"Better than at step {first.step}: the intervals do not overlap."
    if last_high < first_low:
        return f"Worse than at step {first.step}: the intervals do not overlap."
    return f"Not to be told from step {first.step}: the intervals overlap."


def _answer_of_rewards(points: Sequence[Point], *, is_over: bool) -> LearningAnswer:
    rewards = [value for _, value in points if value is not None]
    if not rewards:
        none = "No step was trained." if is_over else "No step has ended yet."
        return LearningAnswer(before=None, now=None, of=none, verdict="", interval="")
    fifth = max(1, len(rewards) // 5)
    few, many = rewards[:fifth], rewards[-fifth:]
    verdict = ""
    if len(rewards) > 1:
        steps = f"{fifth} steps" if fifth > 1 else "step"
        verdict = (
            f"Mean of the first {steps} {number(_mean(few))}, of the last {number(_mean(many))}. "
            "Without a validation it is not known how sure that is."
        )
    return LearningAnswer(
        before=number(rewards[0], 2) if len(rewards) > 1 else None,
        now=number(rewards[-1], 2),
        of="mean reward of a step in training",
        verdict=verdict,
        interval="",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """A sentence about a run."""

    text: str
    is_good: bool


def worth_a_look(metrics: Metrics, *, num_groups: int | None) -> list[Remark]:
    """What no detector speaks of, the good last; `num_groups` is that of a batch, if known."""
    asked = (_fell_back, _not_numbers, _untaught, _failures, _cut, _gap, _entropy, _idle)
    warnings = [
        Remark(text=said, is_good=False) for ask in asked if (said := ask(metrics, num_groups))
    ]
    comforts = [
        Remark(text=said, is_good=True) for ask in (_whole, _roomy) if (said := ask(metrics))
    ]
    return warnings + comforts


def _whole(metrics: Metrics) -> str | None:
    episodes, failed = (
        _total(metrics, f"rollout/{name}") for name in ("episodes", "failed_episodes")
    )
    return f"No episode of {number(episodes)} failed." if episodes and failed == 0 else None


def _roomy(metrics: Metrics) -> str | None:
    lost = [_total(metrics, f"rollout/{name}") for name in ("context_overflows", "empty_replies")]
    return "No episode ran out of room." if lost[0] == 0 and not lost[1] else None


def _fell_back(metrics: Metrics, num_groups: int | None) -> str | None:
    points = [
        (value, step)
        for step, value in points_of(metrics, "validation/success_rate")
        if value is not None
    ]
    highs = [v for _, v in points_of(metrics, "validation/success_rate_high") if v is not None]
    if len(points) < 2 or not highs:
        return None
    best, best_step = max(points, key=lambda point: point[0])
    newest, newest_step = points[-1]
    if best <= highs[-1] or best_step == newest_step:
        return None
    return (
        f"The best validation was {share(best)} at step {best_step}; at step {newest_step} it is "
        f"{share(newest)}, and the best lies outside its interval. The checkpoint `best` is kept."
    )


def _not_numbers(metrics: Metrics, num_groups: int | None) -> str | None:
    """Values that are there and are no finite number; null is "not known" and no sign."""
    odd: dict[str, int] = {}
    for row in metrics.rows:
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                odd.setdefault(name, row["step"])
    if not odd:
        return None
    name, step = min(odd.items(), key=lambda item: item[1])
    others = f", and {count(len(odd) - 1, 'other metric')} later" if len(odd) > 1 else ""
    return f"{name} is not a finite number at step {step}{others}."


def _untaught(metrics: Metrics, num_groups: int | None) -> str | None:
    flat = [(s, v) for s, v in points_of(metrics, "rollout/flat_groups") if v is not None]
    if not flat:
        return None
    half = num_groups / 2 if num_groups else max(1.0, max(v for _, v in flat) / 2)
    run = _stretch_at_the_end(flat, lambda value: value >= half)
    if len(run) < _FEW_STEPS or num_groups is None:
        return None
    least = int(min(value for _, value in run))
    reward = _last(metrics, "reward/success_rate")
    why = ""
    if reward is not None and reward > 0.5:
        why = ": most tasks are always solved. Harder tasks, or fewer steps, would teach more"
    elif reward is not None:
        why = ": most tasks are never solved. Easier tasks, or more attempts at each, would"
        why += " teach more"
    return (
        f"From step {run[0][0]} on {least} or more of {num_groups} groups have equal rewards{why}."
    )


def _failures(metrics: Metrics, num_groups: int | None) -> str | None:
    failed = [(s, v) for s, v in points_of(metrics, "rollout/failed_episodes") if v is not None]
    episodes, total = _total(metrics, "rollout/episodes"), sum(value for _, value in failed)
    if not episodes or not total:
        return None
    step, most = max(failed, key=lambda point: point[1])
    at = f", most at step {step} ({number(most)})" if len(failed) > 1 and most > 1 else ""
    return (
        f"{number(total)} of {number(episodes)} episodes failed, "
        f"{number(100 * total / episodes, 2)}%{at}."
    )


def _cut(metrics: Metrics, num_groups: int | None) -> str | None:
    total = _total(metrics, "rollout/context_overflows")
    if total:
        step, newest = points_of(metrics, "rollout/context_overflows")[-1]
        return (
            f"{count(int(total), 'episode')} ran out of room, {number(newest)} of them at step "
            f"{step}: see data.max_response_length and rollout.max_model_len."
        )
    empty = _total(metrics, "rollout/empty_replies")
    return f"{count(int(empty), 'call')} got an empty reply: no room was left." if empty else None


def _gap(metrics: Metrics, num_groups: int | None) -> str | None:
    gaps = [v for _, v in points_of(metrics, "train/logprob_gap_mean") if v is not None]
    if len(gaps) < 2 * _FEW_STEPS:
        return None
    start, end = _mean(gaps[:_FEW_STEPS]), _mean(gaps[-_FEW_STEPS:])
    if end < _GAP_COUNTS or end < _GAP_GREW * start:
        return None
    return (
        f"Sampler and trainer drift apart: {number(start, 2)} nats a token at the start, "
        f"{number(end, 2)} now. A lower learning rate keeps them together."
    )


def _entropy(metrics: Metrics, num_groups: int | None) -> str | None:
    values = [v for _, v in points_of(metrics, "train/entropy") if v is not None]
    if len(values) < 2 * _FEW_STEPS:
        return None
    start, end = _mean(values[:_FEW_STEPS]), _mean(values[-_FEW_STEPS:])
    if end > _ENTROPY_LEFT * start:
        return None
    return (
        f"Entropy fell from {number(start, 2)} to {number(end, 2)} nats a token: answers hardly "
        "vary any more, so there will be little left to learn from."
    )


def _idle(metrics: Metrics, num_groups: int | None) -> str | None:
    updates = [(s, v) for s, v in points_of(metrics, "train/updates") if v is not None]
    idle = [step for step, value in updates if not value]
    if not idle:
        return None
    return (
        f"{count(len(idle), 'step')} of {len(updates)} trained nothing, the latest of them "
        f"step {idle[-1]}."
    )


def _stretch_at_the_end(
    points: Sequence[tuple[int, float]], holds: Callable[[float], Any]
) -> list[tuple[int, float]]:
    found: list[tuple[int, float]] = []
    for step, value in reversed(points):
        if not holds(value):
            break
        found.append((step, value))
    return found[::-1]


def _total(metrics: Metrics, name: str) -> float | None:
    """None where the run does not tell of it, or of more than a float holds."""
    values = [value for _, value in points_of(metrics, name) if value is not None]
    total = sum(values)
    return total if values and math.isfinite(total) else None


def _last(metrics: Metrics, name: str) -> float | None:
    return next((v for _, v in reversed(points_of(metrics, name)) if v is not None), None)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
