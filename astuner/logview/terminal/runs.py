"""A list of runs on a sheet: how each stands, and whether it got better."""

from collections.abc import Sequence
from itertools import groupby

from astuner.logview.reading.run_reader import RunReader
from astuner.logview.reading.run_status import RunStatus
from astuner.logview.terminal.sheet import BAD, DIM, GOOD, STRONG, Part, Sheet, columns
from astuner.logview.view.words import count, duration, share

_STYLES = {"done": GOOD, "running": STRONG, "failed": BAD, "killed": BAD, "gone": DIM}
_HEAD = ("run", "status", "steps", "reward", "solved")


def runs_sheet(runs: Sequence[RunReader]) -> Sheet:
    """The runs, those of one name together, and in that order in which the names come first."""
    sheet = Sheet()
    names = list(dict.fromkeys(run.experiment for run in runs))
    ordered = sorted(runs, key=lambda run: names.index(run.experiment))
    states = [run.state() for run in ordered]
    rows = columns([tuple((name, DIM) for name in _HEAD), *map(_row, ordered, states)], left=2)
    sheet.add(*rows[0], indent=2)
    found = zip(ordered, states, rows[1:], strict=True)
    for experiment, group in groupby(found, key=lambda one: one[0].experiment):
        sheet.add((experiment, STRONG))
        for one, state, row in group:
            sheet.add(*row, indent=2)
            for note in filter(None, (_evaluated(one), _note(state))):
                sheet.add((note, DIM), indent=4)
    return sheet


def change(first: float | None, last: float | None) -> str:
    """As in "0.16 → 0.90"."""
    if last is None:
        return share(None)
    return f"{share(first)} → {share(last)}"


def steps_done(state: RunStatus) -> str:
    """As in "12 of 25"."""
    done = "-" if state.step is None else f"{state.step}"
    return done if state.num_steps is None else f"{done} of {state.num_steps}"


def status_part(state: RunStatus) -> Part:
    return state.status, _STYLES.get(state.status, "")


def _row(run: RunReader, state: RunStatus) -> tuple[Part, ...]:
    first, last = state.validation_first, state.validation_last
    name = run.name.removeprefix(f"{run.experiment}/")
    if state.kind == "evaluation":
        reward, solved = share(state.validation_reward), share(last and last.rate)
        return name, status_part(state), "-", reward, solved
    return (
        name,
        status_part(state),
        steps_done(state),
        change(state.reward_first, state.reward_last),
        change(first.rate if first else None, last.rate if last else None),
    )


def _evaluated(run: RunReader) -> str | None:
    facts = run.facts
    if facts is None:
        return None
    tasks = f"{count(facts.num_tasks, 'task')} of {facts.split}"
    return f"evaluation of {facts.model} on {tasks}, {count(facts.num_repeat, 'attempt')} each"


def _note(state: RunStatus) -> str | None:
    """Why it failed, or how long it will go on."""
    if state.status in ("failed", "killed", "unknown"):
        return state.last_line
    if state.status == "running" and state.seconds_left is not None:
        return f"{duration(state.seconds_left)} left"
    return None
