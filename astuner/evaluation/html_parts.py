"""Of what results are made in a notebook: small tables and curves, as HTML that stands for itself.

All text of others is escaped. No scripts, since notebooks that are not trusted run none.
"""

from collections.abc import Mapping, Sequence
from html import escape

from astuner.evaluation.intervals import Interval
from astuner.machine.visible import visible

Curve = Sequence[tuple[int, float]]
"""Steps with values."""

DASH = "\N{EN DASH}"
_WIDTH, _HEIGHT = 360, 120
_EDGE = 12
_COLOURS = ("#0b6e4f", "#c2570c", "#3b5bdb")


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


def html_interval(found: Interval | None) -> str:
    return "(interval not known)" if found is None else f"[{found.low:.3f}, {found.high:.3f}]"


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
