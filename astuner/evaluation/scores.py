"""How good one model was on its tasks, in all and for each value of a tag."""

from collections.abc import Mapping
from dataclasses import dataclass

from astuner.evaluation.outcomes import EvaluatedModel
from astuner.evaluation.score_figures import Score, score_of
from astuner.evaluation.score_page import passes_table, score_table
from astuner.evaluation.tags import tag_name, tasks_by_tag


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScores:
    """Of one evaluation."""

    model: EvaluatedModel
    total: Score
    by: str | None
    """The tag by which the tasks are told apart; None: by none."""
    groups: Mapping[str, Score]
    """Value of that tag -> those tasks; "" for tasks without it. The largest first."""

    @property
    def num_missing(self) -> int:
        """Episodes that the evaluation has not come to, as after a kill."""
        facts = self.model.facts
        return max(0, facts.num_tasks * facts.num_repeat - self.total.num_episodes)

    def _repr_html_(self) -> str:
        named = {self.model.name: self.total}
        for value, group in self.groups.items():
            named[tag_name(self.by, value)] = group
        return score_table(named) + passes_table(self.total)


def score(model: EvaluatedModel, by: str | None = None) -> ModelScores:
    """All figures of an evaluation; `by` is `source` or a field of the tasks' metadata.

    Raises ConfigError for a field that no task has, naming those there are.
    """
    parts = {} if by is None else tasks_by_tag(model.tasks, by)
    return ModelScores(
        model=model,
        total=score_of(model.tasks),
        by=by,
        groups={value: score_of(tasks) for value, tasks in parts.items()},
    )
