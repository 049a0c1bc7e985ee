"""A list of episodes on a sheet, by step and task."""

from collections.abc import Sequence
from itertools import groupby

from astuner.logview.reading.row import EpisodeRow
from astuner.logview.terminal.sheet import BAD, DIM, GOOD, STRONG, Part, Sheet, columns
from astuner.logview.view.words import count, duration


def episodes_sheet(rows: Sequence[EpisodeRow], *, of: str, noun: str = "episode") -> Sheet:
    """The episodes `of` something, in the order in which they are given."""
    sheet = Sheet()
    sheet.add(("── ", DIM), (of, STRONG), (f" · {count(len(rows), noun)}", DIM))
    cells = zip(rows, columns([_row(row) for row in rows], left=1), strict=True)
    for task, group in groupby(cells, key=lambda one: (one[0].task_id, one[0].title)):
        sheet.add((f"task {task[0]}: ", DIM), task[1])
        for row, line in group:
            sheet.add(*line, _outcome(row), indent=2)
    return sheet


def _row(row: EpisodeRow) -> tuple[Part, ...]:
    if row.problem is not None:
        return (row.episode_id,)
    return (
        (row.episode_id, STRONG),
        count(row.num_calls, "call"),
        count(row.num_sampled_tokens, "token"),
        duration(row.seconds),
    )


def _outcome(row: EpisodeRow) -> Part:
    if row.problem is not None:
        return f"  cannot be read: {row.problem}", BAD
    if row.failure is not None:
        return f"  FAILED {row.failure}", BAD
    why = f" ({row.madness})" if row.madness else ""
    reward = "no reward" if row.reward is None else f"reward {row.reward:g}"
    solved = "solved" if row.is_success else "not solved"
    return f"  {reward}{why}, {solved}", GOOD if row.is_success else BAD
