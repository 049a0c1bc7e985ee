"""Carries out a comparison: finds what was named, compares, and holds it against a gate."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from astuner.config.load import load_saved
from astuner.config.sections.gate import GateSettings
from astuner.errors import ConfigError, NotFoundError
from astuner.evaluation.comparison import ModelComparison, compare
from astuner.evaluation.facts import EVALUATION_FILE
from astuner.evaluation.gate import GateResult, GateRules, check_gate
from astuner.evaluation.guard import find_guard
from astuner.evaluation.outcomes import EvaluatedModel
from astuner.evaluation.read import FIRST, LAST, read_evaluated
from astuner.logview.terminal.choose import choose_runs
from astuner.run_dir import RunDir

_NUM_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedEvaluation:
    """A run directory, and which of its validations."""

    run_dir: Path
    at: str | None
    """None: it is an evaluation itself."""

    def read(self) -> EvaluatedModel:
        """Raises as `read_evaluated`."""
        return read_evaluated(self.run_dir, self.at)


def find_sides(named: list[str], folder: Path) -> tuple[NamedEvaluation, NamedEvaluation]:
    """The baseline and what is compared with it; of a training run alone its first validation and
    its last one.

    Raises NotFoundError for names of nothing, ConfigError for a single evaluation.
    """
    found = [find_evaluation(name, folder) for name in named]
    if len(found) == 2:
        return found[0], found[1]
    (only,) = found
    if only.at is not None or (only.run_dir / EVALUATION_FILE).is_file():
        raise ConfigError(
            f"compare: {named[0]} is a single evaluation; name another one behind it, or a "
            "training run alone for its first and last validation"
        )
    run_dir = only.run_dir
    return NamedEvaluation(run_dir=run_dir, at=FIRST), NamedEvaluation(run_dir=run_dir, at=LAST)


def find_evaluation(named: str, folder: Path) -> NamedEvaluation:
    """What `RUN` or `RUN@first` means; a run is a folder, or a name as `astuner show` takes them.

    Raises NotFoundError where it is none, or several.
    """
    name, at = named, None
    if not Path(named).is_dir() and "@" in named:
        name, _, at = named.rpartition("@")
    if Path(name).is_dir() and _is_run(Path(name)):
        return NamedEvaluation(run_dir=Path(name), at=at)
    runs = choose_runs(name, folder)
    for run in runs:
        run.index.close()
    if len(runs) > 1:
        names = ", ".join(run.name for run in runs[:_NUM_NAMED])
        more = ", …" if len(runs) > _NUM_NAMED else ""
        raise NotFoundError(
            f"compare: {name} may be {len(runs)} runs: {names}{more}; write one of them in full"
        )
    return NamedEvaluation(run_dir=runs[0].root, at=at)


def _is_run(folder: Path) -> bool:
    run = RunDir(root=folder)
    return (folder / EVALUATION_FILE).is_file() or run.episodes_dir.is_dir()


def gate_rules(settings: GateSettings) -> GateRules:
    return GateRules(**settings.model_dump())


def saved_gate_rules(run_dir: Path, conf_file: Path | None) -> GateRules:
    """`evaluation.gate` of what the run directory saved, with the settings of `conf_file` over it.

    Raises ConfigError for wrong settings.
    """
    saved = RunDir(root=run_dir).config_file
    return gate_rules(load_saved(saved, conf_file=conf_file).settings.evaluation.gate)


def compare_guard(
    found: ModelComparison, rules: GateRules, search_dirs: Sequence[Path]
) -> ModelComparison | None:
    """Both models on the guard tasks, whose file lies in one of `search_dirs`; None where there is
    no guard, or one was not evaluated on them.

    Raises as `find_guard`, and ConfigError where the two cannot be compared there.
    """
    if rules.guard is None:
        return None
    a, b = (find_guard(side, rules.guard, search_dirs) for side in (found.a, found.b))
    return None if a is None or b is None else compare(a, b)


def held_against(
    found: ModelComparison, rules: GateRules, search_dirs: Sequence[Path]
) -> GateResult:
    """The comparison held against the rules, with the evaluations on guard tasks that lie beside.

    Raises as `check_gate` and `compare_guard`.
    """
    return check_gate(found, rules, guard=compare_guard(found, rules, search_dirs))
