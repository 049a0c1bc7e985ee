"""A comparison, and what a gate found, as text for a terminal."""

from collections.abc import Sequence
from pathlib import Path

from astuner.evaluation.comparison import ModelComparison
from astuner.evaluation.gate import GateResult
from astuner.evaluation.outcomes import EvaluatedModel
from astuner.evaluation.score_figures import Score
from astuner.evaluation.task_changes import ChangedTask
from astuner.logview.terminal.sheet import BAD, DIM, GOOD, STRONG, Part, Sheet, columns
from astuner.logview.view.compared import DifferenceRow, difference_rows, how_tested
from astuner.logview.view.words import count, number, share
from astuner.logview.web.addresses import compare_at, episode_at

_VIEWER = "http://127.0.0.1:27886"
"""Where the viewer is found, unless another program has the port."""
_HEAD = ("", "tasks", "A", "B", "B - A", "95%", "p", "could show")
_STYLES = {"better": GOOD, "worse": BAD, "passed": GOOD, "failed": BAD, "undecided": BAD}


def comparison_sheet(found: ModelComparison, *, num_shown: int, folder: Path) -> Sheet:
    """The whole report; `num_shown` tasks that were won and lost, `folder` that of the runs."""
    sheet = Sheet()
    sheet.add((found.verdict, f"{STRONG} {_STYLES.get(found.finding, '')}".strip()))
    sheet.space()
    _add_sides(sheet, found)
    for note in found.notes:
        sheet.add((f"note: {note}", BAD))
    sheet.space()
    for row in columns(_rows(found)):
        sheet.add(*row)
    _add_tests(sheet, found)
    sheet.space()
    _add_changes(sheet, found, num_shown=num_shown, folder=folder)
    return sheet


def gate_sheet(result: GateResult) -> Sheet:
    """A line for each rule."""
    sheet = Sheet()
    word = "passed" if result.is_passed else "failed"
    said = "the gate is passed" if result.is_passed else "the gate is not passed"
    sheet.add((said, f"{STRONG} {_STYLES[word]}"))
    for rule in result.rules:
        sheet.add((f"{rule.outcome:9} ", _STYLES[rule.outcome]), (rule.name, STRONG), indent=2)
        sheet.add(rule.message, indent=12)
    return sheet


def _add_sides(sheet: Sheet, found: ModelComparison) -> None:
    for letter, model, score in (("A", found.a, found.score_a), ("B", found.b, found.score_b)):
        sheet.add((f"{letter}  ", DIM), (model.name, STRONG), (f" · {model.run_dir}", DIM))
        sheet.add(
            f"{model.facts.split}; {count(score.num_episodes, 'episode')}, of which "
            f"{_failed(score)}",
            indent=3,
        )
    if found.num_unpaired:
        sheet.add(
            f"{count(found.num_unpaired, 'task')} without a judged attempt on one side are left out"
        )


def _failed(score: Score) -> str:
    kinds = ", ".join(f"{kind} {number(amount)}" for kind, amount in score.failures.items())
    return f"{number(score.num_failed)} failed" + (f" ({kinds})" if kinds else "")


def _rows(found: ModelComparison) -> list[tuple[Part, ...]]:
    return [tuple((name, DIM) for name in _HEAD), *map(_row, difference_rows(found))]


def _row(row: DifferenceRow) -> tuple[Part, ...]:
    style = _STYLES.get(row.finding or "", "")
    means = (row.mean_a, row.mean_b, (row.difference, style))
    return (row.name, row.num_tasks, *means, row.interval, row.p_value, row.could_show)


def _add_tests(sheet: Sheet, found: ModelComparison) -> None:
    if (said := how_tested(found)) is not None:
        sheet.add((said, DIM))


def _add_changes(sheet: Sheet, found: ModelComparison, *, num_shown: int, folder: Path) -> None:
    sheet.add(
        f"B won {count(len(found.won), 'task')}, lost {number(len(found.lost))}, and did "
        f"{number(found.num_unchanged)} alike"
    )
    for what, changes in (("won", found.won), ("lost", found.lost)):
        if changes and num_shown:
            of_all = f", {num_shown} of {len(changes)}" if num_shown < len(changes) else ""
            sheet.add((f"{what}{of_all}", STRONG), indent=2)
            _add_tasks(sheet, found, changes[:num_shown])
    sheet.add((f"all tasks side by side: {comparison_link(found)}", DIM))
    others = {_folder_of(found.a), _folder_of(found.b)} - {folder.absolute()}
    folders = " ".join(map(str, [folder, *sorted(others)]))
    sheet.add(
        (
            f"the links open while `astuner logview {folders}` serves; "
            "`astuner show RUN EPISODE` shows an episode here",
            DIM,
        )
    )


def _add_tasks(sheet: Sheet, found: ModelComparison, changes: Sequence[ChangedTask]) -> None:
    for change in changes:
        sheet.add(
            (change.task_id, STRONG),
            f"  success {share(change.success_a)} → {share(change.success_b)}, reward "
            f"{number(change.reward_a)} → {number(change.reward_b)}",
            indent=4,
        )
        for letter, model, episode in (
            ("A", found.a, change.episode_a),
            ("B", found.b, change.episode_b),
        ):
            sheet.add((f"{letter} {link(model, episode)}", DIM), indent=6)


def link(model: EvaluatedModel, episode_id: str) -> str:
    """The address of an episode in the viewer."""
    return f"{_VIEWER}{episode_at(_run_of(model), episode_id)}"


def comparison_link(found: ModelComparison) -> str:
    """The address of the comparison in the viewer."""
    return f"{_VIEWER}{compare_at(_side_of(found.a), _side_of(found.b))}"


def _side_of(model: EvaluatedModel) -> str:
    return _run_of(model) if model.step is None else f"{_run_of(model)}:{model.step}"


def _run_of(model: EvaluatedModel) -> str:
    run_dir = Path(model.run_dir).absolute()
    return f"{run_dir.parent.name}/{run_dir.name}"


def _folder_of(model: EvaluatedModel) -> Path:
    """That holds the runs of all YAMLs."""
    return Path(model.run_dir).absolute().parent.parent
