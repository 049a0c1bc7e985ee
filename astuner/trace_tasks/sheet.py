"""What became of all traces, as a sheet for people."""

from collections import Counter
from collections.abc import Mapping, Sequence

from astuner.config.secret import mask_text
from astuner.task_generation.draft import Side
from astuner.trace_tasks.step import StepCount
from astuner.traces.reading import Unread


def counts_sheet(
    counts: Sequence[StepCount], sides: Mapping[Side, int], unread: Unread, notes: Counter[str]
) -> str:
    """Markdown."""
    lines = [
        "# Tasks from traces",
        "",
        "| step | in | out | dropped | why |",
        "| --- | ---: | ---: | ---: | --- |",
        *(_row(count) for count in counts),
        "",
        f"Tasks: {', '.join(f'{number} {side}' for side, number in sides.items())}.",
    ]
    if unread.counts:
        lines += ["", "Not read:", ""]
        lines += [
            mask_text(f"- {number}: {reason}, first at {unread.places[reason]}")
            for reason, number in unread.counts.most_common()
        ]
    all_notes = notes + sum((count.notes for count in counts), Counter[str]())
    if all_notes:
        lines += ["", "Beside that:", ""]
        lines += [f"- {name}: {number}" for name, number in sorted(all_notes.items())]
    return "\n".join(lines) + "\n"


def dropped_line(counts: Sequence[StepCount]) -> str:
    """Which step dropped how many, and why, in one sentence."""
    said = [f"{count.name} dropped {_reasons(count)}" for count in counts if count.num_dropped]
    return "; ".join(said) or "no step dropped any"


def _row(count: StepCount) -> str:
    numbers = f"{count.num_in} | {count.num_out} | {count.num_dropped}"
    return f"| {count.name} | {numbers} | {_reasons(count)} |"


def _reasons(count: StepCount) -> str:
    return ", ".join(f"{number} ({reason})" for reason, number in count.dropped.most_common())
