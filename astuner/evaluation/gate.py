"""Whether a model may be released: each rule of a gate held against a comparison.

A rule that cannot be decided, as with too few tasks, is not passed and says so: an interval that
reaches beyond a limit proves neither side.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from astuner.errors import ConfigError
from astuner.evaluation.comparison import ModelComparison
from astuner.evaluation.differences import ComparedGroup, PairedDifference, compare_by_tag
from astuner.evaluation.intervals import Interval
from astuner.evaluation.pairing import pair_tasks
from astuner.evaluation.tags import known_tags, listed

RuleOutcome = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRules:
    """As in `astuner.evaluation.gate`, whose settings have these names."""

    min_gain: float | None = None
    max_longer: float | None = None
    not_worse_on: Mapping[str, Sequence[str | bool | int | float]] = field(default_factory=dict)
    guard: str | None = None
    max_drop: float = 0.05
    max_failed: float | None = None
    max_format_errors: float | None = None

    @property
    def asks_for_nothing(self) -> bool:
        limits = (self.min_gain, self.max_longer, self.max_failed, self.max_format_errors)
        return not self.not_worse_on and self.guard is None and limits == (None,) * len(limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRule:
    """One rule, and what came of it."""

    name: str
    """The setting, with its tag where it has one."""
    outcome: RuleOutcome
    message: str
    """What was asked for, and the figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """Of all rules."""

    rules: Sequence[CheckedRule]

    @property
    def is_passed(self) -> bool:
        return bool(self.rules) and all(rule.outcome == "passed" for rule in self.rules)


def check_gate(
    found: ModelComparison, rules: GateRules, *, guard: ModelComparison | None = None
) -> GateResult:
    """Hold b of the comparison against the rules; `guard` is that of the guard tasks.

    Raises ConfigError for a gate that asks for nothing, and for a tag that no task has.
    """
    if rules.asks_for_nothing:
        raise ConfigError(
            "evaluation.gate asks for nothing, so nothing can be passed; set min_gain, max_longer, "
            "not_worse_on, guard, max_failed or max_format_errors"
        )
    score = found.score_b
    checked = [
        _check_gain(found.total.success, rules.min_gain),
        _check_longer(found.total, rules.max_longer),
        *_check_tags(found, rules),
        _check_guard(guard, rules),
        _check_share("max_failed", score.failed_share, rules.max_failed, "episodes failed"),
        _check_share(
            "max_format_errors",
            score.format_error_share,
            rules.max_format_errors,
            "episodes have a reply of bad form",
        ),
    ]
    return GateResult(rules=[rule for rule in checked if rule is not None])


def _check_gain(success: PairedDifference | None, min_gain: float | None) -> CheckedRule | None:
    if min_gain is None:
        return None
    asked = f"a gain in success above {min_gain:+.3f}"
    checked = _check_above("min_gain", success, min_gain, asked)
    if checked.outcome == "passed" and min_gain >= 0 and success and success.finding != "better":
        return replace(
            checked, outcome="undecided", message=f"{checked.message}; the test shows no gain"
        )
    return checked


def _check_longer(total: ComparedGroup, max_longer: float | None) -> CheckedRule | None:
    if max_longer is None:
        return None
    asked = f"at most {max_longer:.0%} more sampled tokens"
    change = total.sampled_tokens
    if change is None or change.interval is None:
        said = "how many more cannot be known: no tokens, or fewer than two tasks on both sides"
        return CheckedRule(name="max_longer", outcome="undecided", message=f"{asked}: {said}")
    low, high = change.interval.low, change.interval.high
    outcome = _outcome(is_within=high <= max_longer, is_beyond=low > max_longer)
    said = f"{change.share:+.1%} [{low:+.1%}, {high:+.1%}], {change.num_tasks} tasks"
    return CheckedRule(name="max_longer", outcome=outcome, message=f"{asked}: {said}")


def _check_tags(found: ModelComparison, rules: GateRules) -> list[CheckedRule]:
    if not rules.not_worse_on:
        return []
    pairs = pair_tasks(found.a, found.b, common_only=True)
    checked = []
    for name, wanted in rules.not_worse_on.items():
        groups = {value: group for value, group in compare_by_tag(pairs, name).items() if value}
        values = [_as_tag(value) for value in wanted] or sorted(groups)
        if missing := [value for value in values if value not in groups]:
            raise ConfigError(
                f"evaluation.gate.not_worse_on.{name} names {', '.join(map(repr, missing))}, which "
                f"no task has; there are {listed(sorted(groups), near=missing[0])}. "
                f"Tags: {known_tags([pair.a for pair in pairs], near=name)}"
            )
        checked += [
            _check_drop(f"not_worse_on {name}={value}", groups[value].success, rules.max_drop)
            for value in values
        ]
    return checked


def check_tags_are_there(rules: GateRules, tags: Mapping[str, Collection[str]]) -> None:
    """`tags` are the values of each tag that tasks have. Raises ConfigError for one of
    `not_worse_on` that none has."""
    for name, wanted in rules.not_worse_on.items():
        if name not in tags:
            raise ConfigError(
                f"evaluation.gate.not_worse_on.{name}: no task has such a tag; there are "
                f"{listed(sorted(tags), near=name) or 'none'}"
            )
        if missing := [value for value in map(_as_tag, wanted) if value not in tags[name]]:
            raise ConfigError(
                f"evaluation.gate.not_worse_on.{name} names {', '.join(map(repr, missing))}, which "
                f"no task has; there are {listed(sorted(tags[name]), near=missing[0])}"
            )


def _as_tag(value: str | bool | int | float) -> str:
    """As `read` writes values of metadata."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_guard(guard: ModelComparison | None, rules: GateRules) -> CheckedRule | None:
    if rules.guard is None:
        return None
    name = f"guard {rules.guard}"
    if guard is None:
        said = (
            "both models have to be evaluated on these tasks too, by `astuner evaluate --split "
            f"{rules.guard}`"
        )
        return CheckedRule(name=name, outcome="undecided", message=f"not evaluated: {said}")
    return _check_drop(name, guard.total.success, rules.max_drop)


def _check_drop(name: str, success: PairedDifference | None, max_drop: float) -> CheckedRule:
    return _check_above(name, success, -max_drop, f"a loss in success of less than {max_drop:.3f}")


def _check_above(
    name: str, success: PairedDifference | None, least: float, asked: str
) -> CheckedRule:
    """Whether the whole interval lies above."""
    if success is None or success.interval is None:
        num_tasks = 0 if success is None else success.num_tasks
        said = f"{num_tasks} tasks were judged on both sides, which is too few to know"
        return CheckedRule(name=name, outcome="undecided", message=f"{asked}: {said}")
    interval = success.interval
    outcome = _outcome(is_within=interval.low > least, is_beyond=interval.high <= least)
    said = (
        f"{success.mean_a:.3f} → {success.mean_b:.3f}, {success.mean:+.3f} "
        f"[{interval.low:+.3f}, {interval.high:+.3f}], {success.num_tasks} tasks"
    )
    needed = _needed_tasks(success, interval, least) if outcome == "undecided" else None
    if needed is not None:
        said += f"; were the difference to stay, about {needed} tasks would decide it"
    return CheckedRule(name=name, outcome=outcome, message=f"{asked}: {said}")


def _needed_tasks(success: PairedDifference, interval: Interval, least: float) -> int | None:
    """The width of the interval falls with the root of their number. None where it is at the very
    limit."""
    distance = abs(success.mean - least)
    if distance < 1e-3:
        return None
    half = (interval.high - interval.low) / 2
    return math.ceil(success.num_tasks * (half / distance) ** 2) + 1


def _check_share(
    name: str, share: float | None, limit: float | None, what: str
) -> CheckedRule | None:
    if limit is None:
        return None
    asked = f"at most {limit:.1%} of {what}"
    if share is None:
        return CheckedRule(name=name, outcome="undecided", message=f"{asked}: there are none")
    outcome = "passed" if share <= limit else "failed"
    return CheckedRule(name=name, outcome=outcome, message=f"{asked}: {share:.1%}")


def _outcome(*, is_within: bool, is_beyond: bool) -> RuleOutcome:
    if is_within:
        return "passed"
    return "failed" if is_beyond else "undecided"
