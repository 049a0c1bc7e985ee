"""The entry: from what was asked for to what is known of each model, as plain values and tables."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from astuner.console import RunConsole, open_screen
from astuner.errors import AstunerError, BackboneError, Quit, exit_code_of
from astuner.evaluating.compared import gate_rules, held_against
from astuner.evaluating.comparison_sheet import comparison_sheet, gate_sheet
from astuner.evaluating.evaluate import EvaluationStart, ModelEvaluation, evaluate_models
from astuner.evaluating.order import EvaluationOrder
from astuner.evaluation.comparison import ModelComparison, compare, comparison_record
from astuner.evaluation.gate import GateResult, GateRules
from astuner.evaluation.gate_files import gate_record
from astuner.evaluation.read import read_evaluated
from astuner.evaluation.scores import ModelScores, Score, score
from astuner.logview.terminal.scores import score_sheet
from astuner.logview.terminal.sheet import Sheet
from astuner.run_dir import RunDir, append_json_line, naming_the_file

SCORES_FILE = "scores.json"
NOT_PASSED = 3
"""The exit code where a gate was not passed."""
_NUM_SHOWN = 5
"""Tasks that were won, and lost, in each comparison."""
_STEP_NAME = "step_"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredEvaluation:
    """Of one model: how far it came, and how good it was there."""

    name: str
    run_dir: Path | None
    """None where it was not begun."""
    is_whole: bool
    scores: ModelScores | None
    """Of what is there; None where it was not begun."""
    error: AstunerError | Quit | None
    """Why it is not whole, or tells nothing; None where nothing is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldComparison:
    """A model compared with the first, and held against evaluation.gate."""

    comparison: ModelComparison
    gate: GateResult | None
    """None: the gate asks for nothing."""

    def as_json(self) -> dict[str, Any]:
        gate = None if self.gate is None else gate_record(self.comparison, self.gate)
        return {**comparison_record(self.comparison), "gate": gate}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluations:
    """What came of one call, of each model as far as it went; printing it shows the table."""

    models: Sequence[ScoredEvaluation]
    comparisons: Sequence[HeldComparison]
    """Of each further model with the first, as far as both are whole."""
    folder: Path
    """Of the runs, for links."""
    ended_by: AstunerError | Quit | None
    """What ended it, or the first failure of a model; None where all were evaluated."""

    @property
    def exit_code(self) -> int:
        """Of the command: 3 where the gate was not passed."""
        if self.ended_by is not None:
            return exit_code_of(self.ended_by)
        gates = [held.gate for held in self.comparisons if held.gate is not None]
        return 0 if all(gate.is_passed for gate in gates) else NOT_PASSED

    @property
    def sheet(self) -> Sheet:
        """The table of all models, and what differs between them, for a terminal."""
        known = [model.scores for model in self.models if model.scores is not None]
        sheet = score_sheet(known) if known else Sheet()
        for held in self.comparisons:
            sheet.space()
            sheet.put(comparison_sheet(held.comparison, num_shown=_NUM_SHOWN, folder=self.folder))
            if held.gate is not None:
                sheet.space()
                sheet.put(gate_sheet(held.gate))
        return sheet

    @property
    def text(self) -> str:
        return self.sheet.plain

    def __str__(self) -> str:
        return self.text

    def as_json(self) -> dict[str, Any]:
        return {
            "models": [_model_as_json(model) for model in self.models],
            "comparisons": [held.as_json() for held in self.comparisons],
        }


def evaluate(order: EvaluationOrder) -> Evaluations:
    """Evaluate what is asked for, or go on with it. Raises ConfigError and TaskReadError for what
    cannot be meant or read, before anything is rolled out."""
    console = RunConsole(open_screen(), is_live=False)
    start = EvaluationStart(order, console)
    rules = gate_rules(start.loaded.settings.evaluation.gate)
    if len(order.models) > 1:
        start.check_gate(rules)
    found = evaluate_models(start)
    names = _short_names([model.name for model in found.models])
    models = [
        _scored(model, name, order.by) for model, name in zip(found.models, names, strict=True)
    ]
    errors = [error for error in (found.ended_by, *(m.error for m in models)) if error is not None]
    comparisons: list[HeldComparison] = []
    if not errors:
        try:
            _evaluate_guard(order, rules, console)
            comparisons = _compared(models, order.by, rules, start.search_dirs)
        except AstunerError as error:  # the table is shown all the same
            errors = [error]
    return Evaluations(
        models=models,
        comparisons=comparisons,
        folder=start.loaded.experiment_dir,
        ended_by=next(iter(errors), None),
    )


def _evaluate_guard(order: EvaluationOrder, rules: GateRules, console: RunConsole) -> None:
    """On the guard tasks too, where models are compared and the gate names such tasks."""
    if rules.guard is None or len(order.models) < 2:
        return
    console.say(f"evaluation.gate.guard: all models on {rules.guard} too")
    found = evaluate_models(EvaluationStart(replace(order, split=rules.guard, by=None), console))
    if found.ended_by is not None:
        raise found.ended_by


def _compared(
    models: Sequence["ScoredEvaluation"],
    by: str | None,
    rules: GateRules,
    search_dirs: Sequence[Path],
) -> list[HeldComparison]:
    evaluated = [model.scores.model for model in models if model.scores is not None]
    comparisons = [compare(evaluated[0], other, by=by) for other in evaluated[1:]]
    return [
        HeldComparison(
            comparison=found,
            gate=None if rules.asks_for_nothing else held_against(found, rules, search_dirs),
        )
        for found in comparisons
    ]


def _scored(model: ModelEvaluation, name: str, by: str | None) -> ScoredEvaluation:
    """Its scores are written into its run directory too."""
    scores, error = None, model.error
    if model.run_dir is not None:
        evaluated = replace(read_evaluated(model.run_dir), name=name)
        is_begun = bool(evaluated.tasks)
        scores = score(evaluated, by if is_begun else None)
        if is_begun and scores.total.success is None:
            error = error or _all_failed(name, scores.total)
        try:
            _keep(scores, RunDir(root=model.run_dir), is_whole=model.is_whole)
        except AstunerError as refused:  # a full disk; the table is shown all the same
            error = error or refused
    return ScoredEvaluation(
        name=name,
        run_dir=model.run_dir,
        is_whole=model.is_whole,
        scores=scores,
        error=error,
    )


def _all_failed(name: str, total: Score) -> BackboneError:
    kinds = ", ".join(f"{kind} {amount}" for kind, amount in total.failures.items())
    return BackboneError(
        f"{name}: all {total.num_episodes} episodes failed ({kinds}), so nothing is known of it; "
        "`astuner show RUN --failed` shows why"
    )


def _keep(scores: ModelScores, run_dir: RunDir, *, is_whole: bool) -> None:
    path = run_dir.root / SCORES_FILE
    text = json.dumps(_scores_as_json(scores), ensure_ascii=False, indent=1)
    partial = path.with_suffix(".partial")
    with naming_the_file(path, then="give the same command again"):
        partial.write_text(f"{text}\n", encoding="utf-8")
        partial.replace(path)
    if is_whole:
        partial = run_dir.metrics_file.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        append_json_line(partial, {"step": 0, **_metrics(scores.total)})
        with naming_the_file(run_dir.metrics_file):
            partial.replace(run_dir.metrics_file)


def _metrics(total: Score) -> dict[str, float | None]:
    """As of a validation, for whatever shows runs."""
    success, reward, costs = total.success, total.reward, total.costs
    interval = success and success.interval
    return {
        "validation/success_rate": success and success.mean,
        "validation/success_rate_low": interval and interval.low,
        "validation/success_rate_high": interval and interval.high,
        "validation/reward_mean": reward and reward.mean,
        "validation/tokens_mean": costs and costs.sampled_tokens,
        "validation/episodes": total.num_episodes,
        "validation/failed_episodes": total.num_failed,
    }


def _scores_as_json(scores: ModelScores) -> dict[str, Any]:
    return {
        "facts": asdict(scores.model.facts),
        **asdict(scores.total),
        "num_missing": scores.num_missing,
        "by": scores.by,
        "groups": {value: asdict(own) for value, own in scores.groups.items()},
    }


def _model_as_json(model: ScoredEvaluation) -> dict[str, Any]:
    return {
        "name": model.name,
        "run_dir": model.run_dir and str(model.run_dir),
        "is_whole": model.is_whole,
        "error": model.error and str(model.error),
        "scores": model.scores and _scores_as_json(model.scores),
    }


def _short_names(names: Sequence[str]) -> list[str]:
    """For a table: the end of a folder's path where no other model's is the same."""
    short = [_short(name) for name in names]
    is_told_apart = len(set(short)) == len(set(names))
    return short if is_told_apart else list(names)


def _short(name: str) -> str:
    path = Path(name)
    if not path.is_absolute():
        return name
    if path.name.startswith(_STEP_NAME) and len(path.parts) > 3:
        return f"{path.parts[-3]}/{path.name}"
    return path.name
