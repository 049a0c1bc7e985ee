"""How results show in a notebook: small tables and curves, as HTML that stands for itself.

All text of others is escaped. No scripts, since notebooks that are not trusted run none.
"""

from collections.abc import Mapping, Sequence
from html import escape

from astuner.evaluation.comparison import Comparison
from astuner.evaluation.differences import ComparedGroup, PairedDifference, RelativeChange
from astuner.evaluation.intervals import Interval
from astuner.evaluation.scores import Estimate, ModelScores, Score
from astuner.machine.visible import visible

Curve = Sequence[tuple[int, float]]
"""Steps with values."""

_WIDTH, _HEIGHT = 360, 120
_EDGE = 12
_COLOURS = ("#0b6e4f", "#c2570c", "#3b5bdb")
_DASH = "\N{EN DASH}"
_NUM_CHANGES = 5


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column is a name, the others are numbers."""
    titles = "".join(f"<th>{_safe(title)}</th>" for title in head)
    lines = [
        f"<tr><th style='text-align:left'>{_safe(row[0])}</th>"
        + "".join(f"<td style='text-align:right'>{_safe(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    ]
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def html_line(text: str) -> str:
    return f"<div>{_safe(text)}</div>"


def html_curves(curves: Mapping[str, Curve]) -> str:
    """Curves over the steps, in one picture with one scale; those of fewer than two points are
    left out."""
    drawn = {name: points for name, points in curves.items() if len(points) > 1}
    if not drawn:
        return ""
    steps = [step for points in drawn.values() for step, _ in points]
    values = [value for points in drawn.values() for _, value in points]
    lines = "".join(
        f"<polyline fill='none' stroke='{colour}' stroke-width='1.5' points='"
        f"{_points(points, steps, values)}'/>"
        for colour, points in zip(_colours(len(drawn)), drawn.values(), strict=True)
    )
    names = " ".join(
        f"<tspan fill='{colour}'>{_safe(name)}</tspan>"
        for colour, name in zip(_colours(len(drawn)), drawn, strict=True)
    )
    scale = f"{min(values):.3g} to {max(values):.3g}, steps {min(steps)} to {max(steps)}"
    height = _HEIGHT + 20
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' role='img' width='{_WIDTH}' height='{height}' "
        f"viewBox='0 0 {_WIDTH} {height}' font-size='11'><title>{_safe(scale)}</title>{lines}"
        f"<text x='{_EDGE}' y='{_HEIGHT + 12}'>{names} "
        f"<tspan fill='#777'>{_safe(scale)}</tspan></text></svg>"
    )


def scores_as_html(scores: ModelScores) -> str:
    rows = [_score_row(scores.model.name, scores.total)]
    rows += [
        _score_row(f"{scores.by}={value}" if value else f"without {scores.by}", own)
        for value, own in scores.groups.items()
    ]
    head = ("", "tasks", "episodes", "failed", "success", "reward", "tokens")
    passes = [
        (f"{name}{k}", _estimate(estimate))
        for name, found in (("pass@", scores.total.pass_at), ("pass^", scores.total.pass_all))
        for k, estimate in found.items()
        if k > 1
    ]
    return html_table(head, rows) + (html_table(("", "probability"), passes) if passes else "")


def comparison_as_html(found: Comparison) -> str:
    rows = _difference_rows("all tasks", found.total)
    for value, group in found.groups.items():
        name = f"{found.by}={value}" if value else f"without {found.by}"
        rows += _difference_rows(name, group)
    head = ("", "tasks", found.a.name, found.b.name, "difference", "95%", "p")
    parts = [html_line(found.verdict), html_table(head, rows), *map(html_line, found.notes)]
    changes = [("won", change) for change in found.won[:_NUM_CHANGES]]
    changes += [("lost", change) for change in found.lost[:_NUM_CHANGES]]
    told = f"{len(found.won)} tasks won, {len(found.lost)} lost, {found.num_unchanged} unchanged"
    parts.append(html_line(told))
    if changes:
        lines = [
            (change.task_id, what, _change(change.success_a, change.success_b), change.episode_b)
            for what, change in changes
        ]
        parts.append(html_table(("task", "", "success", "episode"), lines))
    return "".join(parts)


def _score_row(name: str, found: Score) -> tuple[str, ...]:
    tokens = f"{found.costs.sampled_tokens:.0f}" if found.costs else _DASH
    counts = (str(found.num_tasks), str(found.num_episodes), str(found.num_failed))
    return (name, *counts, _estimate(found.success), _estimate(found.reward), tokens)


def _estimate(found: Estimate | None) -> str:
    if found is None:
        return _DASH
    return f"{found.mean:.3f} {_interval(found.interval)}"


def _interval(found: Interval | None) -> str:
    return "(interval not known)" if found is None else f"[{found.low:.3f}, {found.high:.3f}]"


def _difference_rows(name: str, group: ComparedGroup) -> list[tuple[str, ...]]:
    return [
        _difference_row(f"{name}: success", group.num_tasks, group.success),
        _difference_row(f"{name}: reward", group.num_tasks, group.reward),
        _relative_row(f"{name}: sampled tokens", group.num_tasks, group.sampled_tokens),
    ]


def _difference_row(name: str, num_tasks: int, found: PairedDifference | None) -> tuple[str, ...]:
    if found is None:
        return (name, str(num_tasks), *[_DASH] * 5)
    return (
        name,
        str(num_tasks),
        f"{found.mean_a:.3f}",
        f"{found.mean_b:.3f}",
        f"{found.mean:+.3f}",
        _interval(found.interval),
        f"{found.test.p_value:.2g}" if found.test else _DASH,
    )


def _relative_row(name: str, num_tasks: int, found: RelativeChange | None) -> tuple[str, ...]:
    if found is None:
        return (name, str(num_tasks), *[_DASH] * 5)
    interval = found.interval
    reach = _DASH if interval is None else f"[{interval.low:+.0%}, {interval.high:+.0%}]"
    means = (f"{found.mean_a:.0f}", f"{found.mean_b:.0f}")
    return (name, str(num_tasks), *means, f"{found.share:+.1%}", reach, _DASH)


def _change(first: float, last: float) -> str:
    return f"{first:.2f} → {last:.2f}"


def _points(points: Curve, steps: Sequence[int], values: Sequence[float]) -> str:
    low, first = min(values), min(steps)
    tall, long = max(values) - low or 1.0, max(steps) - first or 1
    across, up = _WIDTH - 2 * _EDGE, _HEIGHT - 2 * _EDGE
    return " ".join(
        f"{_EDGE + (step - first) / long * across:.1f},"
        f"{_HEIGHT - _EDGE - (value - low) / tall * up:.1f}"
        for step, value in points
    )


def _colours(amount: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(amount)]


def _safe(text: str) -> str:
    return escape(visible(text), quote=True)
