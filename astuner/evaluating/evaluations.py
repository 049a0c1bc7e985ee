"""The entry: from what was asked for to what is known of each model, as plain values and tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from astuner.console import RunConsole, open_screen
from astuner.errors import AstunerError, Quit
from astuner.evaluating.evaluate import EvaluationStart, ModelEvaluation, evaluate_models
from astuner.evaluating.order import EvaluationOrder
from astuner.evaluation.outcomes import EvaluatedModel
from astuner.evaluation.read import read_evaluated


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluations:
    models: Sequence[ModelEvaluation]
    evaluated: Sequence[EvaluatedModel]
    ended_by: AstunerError | Quit | None

    @property
    def sheets(self):
        return [
            Text(
                str(
                    [
                        (
                            m.name,
                            len(m.tasks),
                            sum(len(t.attempts) for t in m.tasks),
                            sum(t.num_successes for t in m.tasks),
                            sum(a.failure is not None for t in m.tasks for a in t.attempts),
                            [
                                sum(a.num_sampled_tokens for t in m.tasks for a in t.attempts),
                                sum(a.num_prompt_tokens for t in m.tasks for a in t.attempts),
                            ],
                        )
                        for m in self.evaluated
                    ]
                )
            )
        ]

    exit_code = 0

    def as_json(self):
        return {}


def evaluate(order: EvaluationOrder) -> Evaluations:
    console = RunConsole(open_screen(), is_live=False)
    found = evaluate_models(EvaluationStart(order, console))
    return Evaluations(
        models=found.models,
        evaluated=[read_evaluated(m.run_dir) for m in found.models if m.run_dir],
        ended_by=found.ended_by,
    )
