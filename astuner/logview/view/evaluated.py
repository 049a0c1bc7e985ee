"""What the page of an evaluation says of its facts and scores, as plain data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from astuner.evaluation.facts import EvaluationFacts
from astuner.evaluation.score_figures import Estimate, Score
from astuner.evaluation.scores import ModelScores
from astuner.evaluation.tags import tag_name
from astuner.logview.view.step_tasks import share_solved
from astuner.logview.view.words import count, model_name, number, share

if TYPE_CHECKING:
    from astuner.logview.reading.groups import GroupRow

_DIGEST_SIGNS = 12
_SHORT_VALUE = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedText:
    """A line of what is known."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DecidingSettings:
    """What decides what an episode is worth."""

    own: Sequence[NamedText]
    """Those that are not as they are without a word in the YAML, and the digests of code."""
    usual: Sequence[NamedText]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """A line of the table of scores."""

    name: str
    address_of: str | None
    """The run that it leads to; None for a part of the tasks."""
    score: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRow:
    """What several attempts at a task tell."""

    k: int
    any_of_k: Estimate
    all_of_k: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSelection:
    """Some of the tasks of a validation, by what came of their attempts."""

    says: str
    says_of_one: str
    """Where each task has one attempt."""
    holds: Callable[["GroupRow"], bool]


OUTCOMES: Mapping[str, GroupSelection] = {
    "all": GroupSelection(says="all", says_of_one="all", holds=lambda group: True),
    "solved": GroupSelection(
        says="solved in every attempt",
        says_of_one="solved",
        holds=lambda group: share_solved(group) == 1.0,
    ),
    "some": GroupSelection(
        says="in some",
        says_of_one="in some",
        holds=lambda group: 0 < (share_solved(group) or 0.0) < 1,
    ),
    "none": GroupSelection(
        says="in none",
        says_of_one="not solved",
        holds=lambda group: share_solved(group) == 0.0,
    ),
    "failed": GroupSelection(
        says="with a failed attempt",
        says_of_one="failed",
        holds=lambda group: group.num_failed > 0,
    ),
}
"""By their names in addresses. The share is that of the attempts that were judged."""


def headline(facts: EvaluationFacts, total: Score) -> str:
    """Behind the share that was solved: of what."""
    judged = count(total.num_episodes - total.num_failed, "judged episode")
    failed = f", {number(total.num_failed)} failed" if total.num_failed else ""
    return f"solved of {count(total.num_tasks, 'task')} of {facts.split}: {judged}{failed}"


def fact_lines(facts: EvaluationFacts) -> list[NamedText]:
    """Of which model on what."""
    known = {
        "model": facts.model,
        "weights": facts.weights and facts.weights[:_DIGEST_SIGNS],
        "tasks": f"{facts.split}, {count(facts.num_tasks, 'task')}",
        "attempts": f"{number(facts.num_repeat)} at each task",
        "digest of the tasks": facts.tasks_digest[:_DIGEST_SIGNS],
    }
    return [NamedText(name=name, text=text) for name, text in known.items() if text]


def deciding_lines(decides: Mapping[str, Any], defaults: Mapping[str, Any]) -> DecidingSettings:
    """`defaults` has the value of each dotted setting that nobody set."""
    own, usual = [], []
    for name, value in sorted(decides.items()):
        is_usual = name in defaults and defaults[name] == value
        (usual if is_usual else own).append(NamedText(name=name, text=_value(value)))
    return DecidingSettings(own=own, usual=usual)


def _value(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= _SHORT_VALUE else f"{text[:_SHORT_VALUE]}…"


def score_rows(all_scores: Mapping[str, ModelScores]) -> list[ScoreRow]:
    """By the names of their runs, each with the parts of its tasks below it."""
    rows = []
    for run, scores in all_scores.items():
        name = model_name(scores.model.facts.model)
        rows.append(ScoreRow(name=name, address_of=run, score=scores.total))
        rows += [
            ScoreRow(name=tag_name(scores.by, value), address_of=None, score=own)
            for value, own in scores.groups.items()
        ]
    return rows


def pass_rows(total: Score) -> list[PassRow]:
    """Nothing where each task has one attempt, since all of them are the success rate then."""
    if len(total.pass_at) < 2:
        return []
    return [
        PassRow(k=k, any_of_k=estimate, all_of_k=total.pass_all[k])
        for k, estimate in total.pass_at.items()
    ]


def interval_in_words(found: Estimate | None) -> str:
    """As in "95% interval 0.78 to 0.92"."""
    if found is None:
        return ""
    if found.interval is None:
        return "how sure that is cannot be known of so few tasks"
    return f"95% interval {share(found.interval.low)} to {share(found.interval.high)}"
