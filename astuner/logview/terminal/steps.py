"""A run on a sheet: how it stands, a line for each step, and what was found at which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astuner.evaluation.scores import score
from astuner.logview.reading.events import FoundThing
from astuner.logview.reading.run_reader import RunReader
from astuner.logview.reading.run_status import RunStatus, ValidationPoint, validations_of
from astuner.logview.terminal.choose import read_index
from astuner.logview.terminal.runs import change, status_part, steps_done
from astuner.logview.terminal.scores import score_sheet
from astuner.logview.terminal.sheet import BAD, DIM, GOOD, STRONG, Part, Sheet, columns
from astuner.logview.view.learning import answer_untrained, best_checkpoint
from astuner.logview.view.words import clock, duration, share
from astuner.types import finite_number


@dataclass(frozen=True, slots=True)
class _StepColumn:
    title: str
    metric: str
    digits: int


_COLUMNS = (
    _StepColumn("reward", "reward/mean", 3),
    _StepColumn("solved", "reward/success_rate", 2),
    _StepColumn("tokens", "rollout/episode_tokens_mean", 0),
    _StepColumn("entropy", "train/entropy", 3),
    _StepColumn("gap", "train/logprob_gap_mean", 4),
    _StepColumn("failed", "rollout/failed_episodes", 0),
    _StepColumn("seconds", "step/seconds", 1),
)


def run_sheet(run: RunReader) -> Sheet:
    """How a run went: its state, its steps, and in a sentence what came of it; of an evaluation its
    scores. Raises UnreadableError for one whose records cannot be read."""
    sheet = Sheet()
    state, metrics = run.state(), run.metrics()
    _add_state(sheet, run.name, state)
    sheet.space()
    if run.facts is not None:
        sheet.put(score_sheet([score(run.evaluation.evaluated())]))
        return sheet
    if not state.trains:
        read_index(run.index, step=None, is_validation=None)
        found = answer_untrained(run.index.outcomes(), kind=state.kind)
        sheet.add((" ".join(filter(None, [found.now, found.of])), STRONG))
        sheet.add(found.verdict)
        return sheet
    validations = {point.step: point for point in validations_of(metrics)}
    _add_steps(sheet, metrics.rows, validations, run.findings())
    for problem in metrics.problems:
        sheet.add((problem, BAD))
    sheet.space()
    sheet.add((_came_of(state), STRONG))
    if (best := best_checkpoint(state, metrics)) is not None:
        sheet.add(f"best checkpoint: {best}")
    return sheet


def _add_state(sheet: Sheet, name: str, state: RunStatus) -> None:
    sheet.add(("── run ", DIM), (name, STRONG))
    facts = [
        f"{steps_done(state)} steps" if state.trains else None,
        f"begun {clock(state.started)}",
        None if state.seconds is None else duration(state.seconds),
        None if state.seconds_left is None else f"{duration(state.seconds_left)} left",
        None if state.num_starts < 2 else f"started {state.num_starts} times",
    ]
    sheet.add(status_part(state), (f" · {' · '.join(filter(None, facts))}", DIM))
    kind = None if state.kind in ("training", state.backbone) else state.kind
    named = " · ".join(filter(None, [kind, state.backbone, state.model]))
    if named:
        sheet.add((named, DIM))
    if state.status in ("failed", "killed", "unknown") and state.last_line:
        sheet.add((state.last_line, BAD))


def _add_steps(
    sheet: Sheet,
    rows: Sequence[Mapping[str, Any]],
    validations: Mapping[int, ValidationPoint],
    findings: Sequence[FoundThing],
) -> None:
    """Findings stand below their step, and those without one, or of one that is not there, last."""
    shown = [
        c for c in _COLUMNS if any(finite_number(row.get(c.metric)) is not None for row in rows)
    ]
    head = tuple((title, DIM) for title in ("step", *(column.title for column in shown)))
    table = columns([head, *(_row(row, shown) for row in rows)], left=0)
    if not rows:
        sheet.add("no step has ended yet")
    elif shown:
        sheet.add(*table[0])
    for row, cells in zip(rows, table[1:], strict=True):
        if any(finite_number(row.get(column.metric)) is not None for column in shown):
            sheet.add(*cells)
        if (point := validations.get(row["step"])) is not None:
            sheet.add((validation_line(point), GOOD), indent=2)
        for finding in findings:
            if finding.step == row["step"]:
                _add_finding(sheet, finding)
    steps = {row["step"] for row in rows}
    for finding in findings:
        if finding.step not in steps:
            _add_finding(sheet, finding)


def validation_line(point: ValidationPoint) -> str:
    """As in "validation at step 25: 0.90 of 88 episodes solved, 95% interval 0.82 to 0.95"."""
    return f"validation at step {point.step}: {share(point.rate)} {_of_them(point)}"


def _of_them(point: ValidationPoint) -> str:
    of = "" if point.num_episodes is None else f"of {point.num_episodes} episodes "
    known = point.low is not None and point.high is not None
    interval = f", 95% interval {share(point.low)} to {share(point.high)}" if known else ""
    return f"{of}solved{interval}"


def _add_finding(sheet: Sheet, finding: FoundThing) -> None:
    at = "" if finding.step is None else f" at step {finding.step}"
    ends = ", which ended the run" if finding.stops else ""
    sheet.add((f"{finding.detector}{at}{ends}: ", BAD), finding.message, indent=2)


def _row(row: Mapping[str, Any], shown: Sequence[_StepColumn]) -> tuple[Part, ...]:
    return (f"{row['step']}", *(_cell(row.get(column.metric), column.digits) for column in shown))


def _cell(value: Any, digits: int) -> str:
    number = finite_number(value)
    return "-" if number is None else f"{number:.{digits}f}"


def _came_of(state: RunStatus) -> str:
    first, last = state.validation_first, state.validation_last
    if first is None or last is None:
        return f"reward {change(state.reward_first, state.reward_last)}"
    if first == last:
        return validation_line(last)
    return f"{change(first.rate, last.rate)} {_of_them(last)}"
