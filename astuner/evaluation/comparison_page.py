"""Differences and changed tasks as tables of a notebook."""

from collections.abc import Mapping, Sequence

from astuner.evaluation.differences import ComparedGroup, PairedDifference, RelativeChange
from astuner.evaluation.html_parts import DASH, html_interval, html_table
from astuner.evaluation.task_changes import ChangedTask

_NUM_CHANGES = 5


def difference_table(named: Mapping[str, ComparedGroup], *, name_a: str, name_b: str) -> str:
    """Three rows for each group of tasks."""
    head = ("", "tasks", name_a, name_b, "difference", "95%", "p")
    groups = [_difference_rows(name, group) for name, group in named.items()]
    return html_table(head, [row for rows in groups for row in rows])


def changes_table(won: Sequence[ChangedTask], lost: Sequence[ChangedTask]) -> str:
    """The largest changes; nothing where there is none."""
    changes = [("won", change) for change in won[:_NUM_CHANGES]]
    changes += [("lost", change) for change in lost[:_NUM_CHANGES]]
    rows = [
        (
            change.task_id,
            what,
            f"{change.success_a:.2f} → {change.success_b:.2f}",
            change.episode_a,
            change.episode_b,
        )
        for what, change in changes
    ]
    head = ("task", "", "success", "episode of the first", "of the second")
    return html_table(head, rows) if rows else ""


def _difference_rows(name: str, group: ComparedGroup) -> list[tuple[str, ...]]:
    return [
        _difference_row(f"{name}: success", group.num_tasks, group.success),
        _difference_row(f"{name}: reward", group.num_tasks, group.reward),
        _relative_row(f"{name}: sampled tokens", group.num_tasks, group.sampled_tokens),
    ]


def _difference_row(name: str, num_tasks: int, found: PairedDifference | None) -> tuple[str, ...]:
    if found is None:
        return (name, str(num_tasks), *[DASH] * 5)
    return (
        name,
        str(num_tasks),
        f"{found.mean_a:.3f}",
        f"{found.mean_b:.3f}",
        f"{found.mean:+.3f}",
        html_interval(found.interval),
        f"{found.test.p_value:.2g}" if found.test else DASH,
    )


def _relative_row(name: str, num_tasks: int, found: RelativeChange | None) -> tuple[str, ...]:
    if found is None:
        return (name, str(num_tasks), *[DASH] * 5)
    interval = found.interval
    reach = DASH if interval is None else f"[{interval.low:+.0%}, {interval.high:+.0%}]"
    means = (f"{found.mean_a:.0f}", f"{found.mean_b:.0f}")
    return (name, str(num_tasks), *means, f"{found.share:+.1%}", reach, DASH)
