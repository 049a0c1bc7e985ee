"""Finds the evaluation on guard tasks that belongs to another evaluation of the same model."""

from pathlib import Path

from astuner.errors import UnreadableError
from astuner.evaluation.facts import EvaluationFacts
from astuner.evaluation.outcomes import EvaluatedModel
from astuner.evaluation.read import read_evaluated
from astuner.run_dir import RunDir


def find_guard(model: EvaluatedModel, guard: str) -> EvaluatedModel | None:
    """The newest evaluation of that model and its weights on the file `guard`, among the run
    directories beside; None where there is none.

    Raises UnreadableError where its records cannot be read.
    """
    folder = Path(model.run_dir).absolute().parent
    for run in reversed(RunDir.all(folder.parent, folder.name)):
        try:
            facts = EvaluationFacts.read(run.root)
        except UnreadableError:  # a run of training
            continue
        is_same = (facts.model, facts.weights) == (model.facts.model, model.facts.weights)
        if is_same and _is_same_file(facts.split, guard):
            return read_evaluated(run.root)
    return None


def _is_same_file(split: str, guard: str) -> bool:
    """A file may be named from another folder than it was evaluated from."""
    named, asked = Path(split), Path(guard)
    return named.absolute() == asked.absolute() or named.name == asked.name
