"""Two models on the same tasks: what the paired differences allow to say."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from astuner.evaluation.comparison_page import changes_table, difference_table
from astuner.evaluation.differences import (
    ComparedGroup,
    Finding,
    RelativeChange,
    compare_by_tag,
    compare_group,
    relative_change,
)
from astuner.evaluation.html_parts import html_line
from astuner.evaluation.outcomes import EvaluatedModel
from astuner.evaluation.pairing import PairedTask, judged_pairs, pair_tasks
from astuner.evaluation.score_figures import Score, score_of
from astuner.evaluation.tags import tag_name
from astuner.evaluation.task_changes import ChangedTask, task_changes

_MANY_LOST = 0.05
"""Share of tasks that failed episodes take out of a comparison, from which on it is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelComparison:
    """Of a, the baseline, and b."""

    a: EvaluatedModel
    b: EvaluatedModel
    total: ComparedGroup
    score_a: Score
    """On the common tasks, failures among it."""
    score_b: Score
    seconds: RelativeChange | None
    won: Sequence[ChangedTask]
    """Tasks that b did better, by success or else by reward, the largest change first."""
    lost: Sequence[ChangedTask]
    num_unchanged: int
    by: str | None
    groups: Mapping[str, ComparedGroup]
    """Value of the tag -> those tasks; "" for tasks without it."""
    notes: Sequence[str]
    """What to know before the figures are believed."""

    @property
    def num_unpaired(self) -> int:
        """Common tasks that were not judged on both sides, since every attempt failed."""
        paired = self.total.success
        return self.total.num_tasks - (paired.num_tasks if paired else 0)

    @property
    def finding(self) -> Finding:
        """By success."""
        return self.total.success.finding if self.total.success else "not known"

    @property
    def verdict(self) -> str:
        """In a sentence."""
        return _verdict(self)

    def __str__(self) -> str:
        return self.verdict

    def _repr_html_(self) -> str:
        named = {"all tasks": self.total}
        named |= {tag_name(self.by, value): group for value, group in self.groups.items()}
        told = f"{len(self.won)} tasks won, {len(self.lost)} lost, {self.num_unchanged} unchanged"
        return "".join(
            (
                html_line(self.verdict),
                difference_table(named, name_a=self.a.name, name_b=self.b.name),
                *map(html_line, self.notes),
                html_line(told),
                changes_table(self.won, self.lost),
            )
        )


def compare(
    a: EvaluatedModel, b: EvaluatedModel, *, by: str | None = None, common_only: bool = False
) -> ModelComparison:
    """Pair the tasks of both and compare b with a.

    Raises ConfigError, naming what differs, where tasks, judge or settings do; with `common_only`
    tasks may. Raises it too for a tag that no task has.
    """
    pairs = pair_tasks(a, b, common_only=common_only)
    won, lost = task_changes(pairs)
    total = compare_group(pairs)
    num_paired = total.success.num_tasks if total.success else 0
    return ModelComparison(
        a=a,
        b=b,
        total=total,
        score_a=score_of([pair.a for pair in pairs]),
        score_b=score_of([pair.b for pair in pairs]),
        seconds=relative_change(pairs, lambda attempt: attempt.seconds),
        won=won,
        lost=lost,
        num_unchanged=num_paired - len(won) - len(lost),
        by=by,
        groups={} if by is None else compare_by_tag(pairs, by),
        notes=_notes(a, b, pairs),
    )


def _notes(a: EvaluatedModel, b: EvaluatedModel, pairs: Sequence[PairedTask]) -> list[str]:
    notes = []
    if a.facts.weights is not None and a.facts.weights == b.facts.weights:
        notes.append("both have the same weights, so any difference is chance")
    for model in (a, b):
        if model.facts.best_of is not None:
            notes.append(
                f"{model.name} was chosen as the best of its run by these very tasks, so its "
                "figures are too good; compare on tasks that chose nothing, by --split test"
            )
    num_lost = len(pairs) - len(judged_pairs(pairs))
    if num_lost > _MANY_LOST * len(pairs):
        notes.append(
            f"{num_lost} of {len(pairs)} tasks have only failed episodes on one side and are left "
            "out; were they the hard ones, the figures are too good"
        )
    if a.facts.num_repeat != b.facts.num_repeat:
        notes.append(
            f"{a.facts.num_repeat} attempts at a task on one side and {b.facts.num_repeat} on the "
            "other; each task counts once"
        )
    return notes


def _verdict(found: ModelComparison) -> str:
    success = found.total.success
    if success is None:
        return "not known: no task was judged on both sides; see the failures"
    if success.interval is None or success.test is None:
        return f"not known: a single task shows {success.mean:+.2f}, which tells of no other"
    low, high = success.interval.low, success.interval.high
    figures = f"{success.mean:+.3f} [{low:+.3f}, {high:+.3f}], {p_in_words(success.test.p_value)}"
    if success.finding in ("better", "worse"):
        return f"B is {success.finding}, {found.b.name}: {figures}"
    return (
        f"no difference shown: {figures}; so many tasks could have shown "
        f"{success.detectable:.2f} or more"
    )


def p_in_words(p_value: float) -> str:
    """As "p = 0.031", or "p < 0.0001"."""
    return "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.2g}"


def comparison_record(found: ModelComparison) -> dict[str, Any]:
    """All that was found as JSON-able data, without the single attempts."""
    bare = replace(found, a=replace(found.a, tasks=()), b=replace(found.b, tasks=()))
    return {"verdict": found.verdict, "finding": found.finding, **asdict(bare)}
