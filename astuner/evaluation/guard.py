"""Finds the evaluation on guard tasks that belongs to another evaluation of the same model."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from astuner.errors import ConfigError, UnreadableError
from astuner.evaluation.facts import EvaluationFacts
from astuner.evaluation.outcomes import EvaluatedModel
from astuner.evaluation.read import read_evaluated
from astuner.run_dir import RunDir
from astuner.task_reader.jsonl_dataset_file import read_task_file
from astuner.task_reader.local_path import find_path
from astuner.task_reader.same_tasks import fingerprint


def find_guard(
    model: EvaluatedModel, guard: str, search_dirs: Sequence[Path] = ()
) -> EvaluatedModel | None:
    """The newest evaluation of that model and its weights on the tasks `guard`, a split or a file,
    among the run directories beside; None where there is none.

    A file is known by its path, or by its tasks where it was evaluated in another place. One that
    lies in none of the `search_dirs` is known by the end of its path.

    Raises UnreadableError where records cannot be read, TaskReadError where the file cannot, and
    ConfigError where the end of its path fits files of different tasks.
    """
    beside = list(_evaluations_beside(model))
    found = next((run for run, facts in beside if facts.split == guard), None)
    if found is None:
        path = find_path(guard, search_dirs)
        if path is not None and path.is_file():
            found = _of_file(beside, path)
        else:
            found = _of_path_end(beside, guard)
    return None if found is None else read_evaluated(found.root)


def _evaluations_beside(model: EvaluatedModel) -> Iterator[tuple[RunDir, EvaluationFacts]]:
    """Those of the same weights, the newest first."""
    folder = Path(model.run_dir).absolute().parent
    for run in reversed(RunDir.all(folder.parent, folder.name)):
        try:
            facts = EvaluationFacts.read(run.root)
        except UnreadableError:  # a run of training
            continue
        if (facts.model, facts.weights) == (model.facts.model, model.facts.weights):
            yield run, facts


def _of_file(beside: Sequence[tuple[RunDir, EvaluationFacts]], path: Path) -> RunDir | None:
    """The newest on the file, or on the first tasks of it."""
    tasks = read_task_file(path)
    for run, facts in beside:
        is_same_place = Path(facts.split).resolve() == path.resolve()
        if is_same_place or facts.tasks_digest == fingerprint(tasks[: facts.num_tasks]):
            return run
    return None


def _of_path_end(beside: Sequence[tuple[RunDir, EvaluationFacts]], guard: str) -> RunDir | None:
    end = Path(guard).parts
    found = [(run, facts) for run, facts in beside if Path(facts.split).parts[-len(end) :] == end]
    newest: dict[str, str] = {}
    for _, facts in found:
        newest.setdefault(facts.split, facts.tasks_digest)
    if len(set(newest.values())) > 1:
        raise ConfigError(
            f"evaluation.gate.guard {guard}: there is no such file here, and evaluations on "
            f"{', '.join(newest)} lie beside, whose tasks differ; name the one that is meant by "
            "its whole path"
        )
    return found[0][0] if found else None
