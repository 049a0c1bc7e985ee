"""How the result of a run shows in a notebook: where it is, how it went, and the curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from astuner.errors import AstunerError
from astuner.evaluation.html_parts import Curve, html_curves, html_line, html_table
from astuner.run_dir import RunDir, read_json_lines
from astuner.types import finite_number

_CURVES: Mapping[str, str] = {
    "success in validation": "validation/success_rate",
    "success in training": "reward/success_rate",
}
_FIGURES: Mapping[str, str] = {
    "success in training": "reward/success_rate",
    "reward in training": "reward/mean",
    "success in validation": "validation/success_rate",
    "reward in validation": "validation/reward_mean",
    "tokens an episode, in validation": "validation/tokens_mean",
}


def result_as_html(run_dir: Path, facts: Mapping[str, Any]) -> str:
    """`facts` are shown as they are; a run without metrics shows these alone."""
    lines = _metrics(run_dir)
    told = [html_line(f"{name}: {fact}") for name, fact in facts.items() if fact is not None]
    figures = [row for name, key in _FIGURES.items() if (row := _figure(name, _curve(lines, key)))]
    table = html_table(("", "first", "last"), figures) if figures else ""
    return "".join(told) + table + html_curves({n: _curve(lines, k) for n, k in _CURVES.items()})


def _metrics(run_dir: Path) -> list[dict[str, Any]]:
    try:
        return list(read_json_lines(RunDir(root=run_dir).metrics_file))
    except (OSError, AstunerError):  # a notebook shows what there is
        return []


def _curve(lines: Sequence[Mapping[str, Any]], name: str) -> Curve:
    known = [(line.get("step"), finite_number(line.get(name))) for line in lines]
    return [(step, v) for step, v in known if isinstance(step, int) and v is not None]


def _figure(name: str, curve: Curve) -> tuple[str, str, str] | None:
    if not curve:
        return None
    return name, f"{curve[0][1]:.3f}", f"{curve[-1][1]:.3f}"
