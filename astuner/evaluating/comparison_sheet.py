"""A comparison, and what a gate found, as text for a terminal."""

from collections.abc import Callable, Sequence
from pathlib import Path

from astuner.evaluation.comparison import ModelComparison
from astuner.evaluation.differences import ComparedGroup, PairedDifference, RelativeChange
from astuner.evaluation.gate import GateResult
from astuner.evaluation.outcomes import EvaluatedModel
from astuner.evaluation.score_figures import Score
from astuner.evaluation.tags import tag_name
from astuner.evaluation.task_changes import ChangedTask
from astuner.logview.terminal.sheet import BAD, DIM, GOOD, STRONG, Part, Sheet, columns
from astuner.logview.view.words import count, duration, number, share, signed
from astuner.logview.web.addresses import episode_at

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
    rows: list[tuple[Part, ...]] = [tuple((name, DIM) for name in _HEAD)]
    rows += _group_rows("", found.total)
    rows.append(_relative_row("seconds", found.seconds, duration))
    for value, group in found.groups.items():
        rows += _group_rows(f"{tag_name(found.by, value)} ", group)
    return rows


def _group_rows(prefix: str, group: ComparedGroup) -> list[tuple[Part, ...]]:
    return [
        _difference_row(f"{prefix}success", group.success, share),
        _difference_row(f"{prefix}reward", group.reward, number),
        _relative_row(f"{prefix}tokens", group.sampled_tokens, lambda mean: number(round(mean))),
    ]


def _difference_row(
    name: str, found: PairedDifference | None, write: Callable[[float], str]
) -> tuple[Part, ...]:
    if found is None:
        return (name, "0", *["-"] * 6)
    style = _STYLES.get(found.finding, "")
    interval = found.interval
    known = ["not known", "-", "-"]
    if interval is not None and found.test is not None and found.detectable is not None:
        reach = f"[{signed(interval.low, 3)}, {signed(interval.high, 3)}]"
        known = [reach, _p(found.test.p_value), f"{found.detectable:.3f}"]
    means = (write(found.mean_a), write(found.mean_b), (signed(found.mean, 3), style))
    return (name, number(found.num_tasks), *means, *known)


def _relative_row(
    name: str, found: RelativeChange | None, write: Callable[[float], str]
) -> tuple[Part, ...]:
    if found is None:
        return (name, "0", *["-"] * 6)
    interval = found.interval
    reach = "not known" if interval is None else f"[{interval.low:+.1%}, {interval.high:+.1%}]"
    means = (write(found.mean_a), write(found.mean_b), f"{found.share:+.1%}")
    return (name, number(found.num_tasks), *means, reach, "-", "-")


def _p(p_value: float) -> str:
    return "< 0.0001" if p_value < 1e-4 else f"{p_value:.2g}"


def _add_tests(sheet: Sheet, found: ModelComparison) -> None:
    success = found.total.success
    if success is None or success.test is None:
        return
    sheet.add(
        (
            f"paired by task; p: {success.test.method}; could show: the smallest true difference "
            "that so many tasks show with 80% power at 5%",
            DIM,
        )
    )


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
    if (found.won or found.lost) and num_shown:
        sheet.add(
            (
                f"the links open while `astuner logview {folder}` serves; `astuner show RUN "
                "EPISODE` shows an episode here",
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
    run_dir = Path(model.run_dir).absolute()
    return f"{_VIEWER}{episode_at(f'{run_dir.parent.name}/{run_dir.name}', episode_id)}"
