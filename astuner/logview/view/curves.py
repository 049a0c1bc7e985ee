"""The curves of runs: which metrics stand together on one, over steps, for one run or several."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from astuner.logview.reading.events import FoundThing
from astuner.logview.reading.metrics import Metrics
from astuner.logview.view.meanings import Shape, meaning_of
from astuner.logview.view.panels import (
    PANELS,
    PARTS,
    TOKENS_PER_SECOND,
    WARM_START_PANELS,
    Panel,
)

VALIDATION = "validation/success_rate"
_ENDS = ("_low", "_high")
"""A metric with these two beside it has an interval."""

_MOST_CAUSES = 3
"""Lines beyond these cannot be told apart; the page lists all of them."""

Point = tuple[int, float | None]
"""A step and its value; None where the run wrote none, or no finite one: the line has a gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveLine:
    """One series of one run."""

    name: str
    label: str
    """Stands at the line's end; empty where it is the only one."""
    run: int
    """Which of the runs shown, from 0."""
    part: int
    """Which of the lines of that run on this chart, from 0."""
    points: tuple[Point, ...]
    interval: tuple[tuple[float | None, float | None], ...]
    """Low and high end at each point; empty where there is none."""

    @property
    def last(self) -> Point | None:
        """The newest point that has a value."""
        return next((point for point in reversed(self.points) if point[1] is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A finding, at its step."""

    step: int
    message: str
    stops: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One chart."""

    key: str
    title: str
    name: str
    """The metric that counts."""
    unit: str
    shape: Shape
    lines: tuple[CurveLine, ...]
    marks: tuple[Mark, ...]

    @property
    def has_points(self) -> bool:
        return any(line.last is not None for line in self.lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCurves:
    """What is drawn of one run."""

    label: str
    metrics: Metrics
    findings: Sequence[FoundThing] = ()
    failures: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """By cause, the commonest first: steps of training with how many episodes failed of it."""


def known_names(metrics: Metrics) -> tuple[str, ...]:
    """All metrics of a run by name, and those that are worked out of others."""
    names = set(metrics.names)
    if {"rollout/tokens", "rollout/seconds"} <= names:
        names.add(TOKENS_PER_SECOND)
    return tuple(sorted(names - {"step", "time"}))


def points_of(metrics: Metrics, name: str) -> tuple[Point, ...]:
    """In the order of steps; what is no finite number is None."""
    if name == TOKENS_PER_SECOND and name not in metrics.names:
        return _tokens_per_second(metrics)
    return tuple(metrics.series(name))


def panels(runs: Sequence[RunCurves]) -> list[Curve]:
    """The small charts, save for those of which no run knows anything."""
    curves = [_panel_curve(panel, runs) for panel in PANELS]
    return [curve for curve in curves if curve.has_points]


def warm_start(run: RunCurves) -> list[Curve]:
    """The charts of a warm start, over its updates; `run.metrics` are those of the warm start."""
    curves = [_panel_curve(panel, [run]) for panel in WARM_START_PANELS]
    return [curve for curve in curves if curve.has_points]


def curve_of(name: str, runs: Sequence[RunCurves]) -> Curve:
    """One metric, with its interval where it has one."""
    meaning = meaning_of(name)
    return Curve(
        key="metric",
        title=meaning.words,
        name=name,
        unit=meaning.unit,
        shape=meaning.shape,
        lines=_lines((name,), runs),
        marks=_marks(runs, _detectors_on(name)),
    )


def validation(runs: Sequence[RunCurves]) -> Curve:
    """The share that is solved in validation; findings that no panel shows stand on it."""
    shown = {detector for panel in PANELS for detector in panel.detectors}
    others = {found.detector for run in runs for found in run.findings} - shown
    sources = _source_names(runs[0].metrics, VALIDATION) if len(runs) == 1 else ()
    return Curve(
        key="validation",
        title="solved in validation",
        name=VALIDATION,
        unit="share",
        shape="rate",
        lines=_lines((VALIDATION, *sources), runs),
        marks=_marks(runs, tuple(others)),
    )


def chart_data(curves: Iterable[Curve], labels: Sequence[str]) -> dict[str, Any]:
    """As charts.js reads it."""
    return {
        "runs": list(labels),
        "charts": {
            curve.key: {
                "title": curve.title,
                "name": curve.name,
                "unit": curve.unit,
                "shape": curve.shape,
                "lines": [_line_data(line) for line in curve.lines],
                "marks": [[mark.step, mark.message, mark.stops] for mark in curve.marks],
            }
            for curve in curves
        },
    }


def short_labels(names: Sequence[str]) -> list[str]:
    """What tells runs apart, of names like math_agent/2026-01-31_09-30-00.

    The experiment where it is a run's own, else the time of its start, with the day if they differ.
    """
    parts = [name.rpartition("/") for name in names]
    num_runs = Counter(experiment for experiment, _, _ in parts)
    starts = [start for experiment, _, start in parts if num_runs[experiment] > 1]
    has_one_day = len({start.partition("_")[0] for start in starts}) == 1
    labels = [
        experiment if num_runs[experiment] == 1 else _clock(start) if has_one_day else start
        for experiment, _, start in parts
    ]
    return labels if len(set(labels)) == len(names) else list(names)


def _clock(start: str) -> str:
    return start.partition("_")[2].replace("-", ":") or start


def _panel_curve(panel: Panel, runs: Sequence[RunCurves]) -> Curve:
    names = panel.names
    if len(runs) == 1:
        names += _source_names(runs[0].metrics, names[0])
    if panel.key == "reward" and len(runs) == 1:
        names += _role_names(runs[0].metrics)
    lines = _lines(names if len(runs) == 1 else panel.names[:1], runs)
    if panel.key == "failed" and len(runs) == 1:
        lines = _by_cause(lines[0], runs[0].failures)
    meaning = meaning_of(panel.names[0])
    return Curve(
        key=panel.key,
        title=panel.title,
        name=panel.names[0],
        unit=meaning.unit,
        shape=meaning.shape,
        lines=lines,
        marks=_marks(runs, panel.detectors),
    )


def _by_cause(
    all_failed: CurveLine, failures: Mapping[str, Mapping[int, int]]
) -> tuple[CurveLine, ...]:
    """The commonest causes beside all failures; one cause alone is all of them."""
    if len(failures) < 2:
        return (all_failed,)
    causes = [
        replace(
            all_failed,
            label=cause,
            part=part,
            points=tuple((step, counts.get(step, 0)) for step, _ in all_failed.points),
        )
        for part, (cause, counts) in enumerate(list(failures.items())[:_MOST_CAUSES], start=1)
    ]
    return (replace(all_failed, label="all"), *causes)


def _role_names(metrics: Metrics) -> tuple[str, ...]:
    roles = [name for name in metrics.names if name.startswith("reward/")]
    roles = [name for name in roles if "/source/" not in name and "/part/" not in name]
    return tuple(sorted(set(roles) - {"reward/mean", "reward/success_rate"}))


def _source_names(metrics: Metrics, name: str) -> tuple[str, ...]:
    """The same metric of each source of a mixture."""
    return tuple(sorted(other for other in metrics.names if other.startswith(f"{name}/source/")))


def _label(name: str, drawn: Sequence[str]) -> str:
    """Of one of the metrics that are drawn together."""
    has_sources = any(other.startswith(f"{name}/source/") for other in drawn)
    if has_sources and name.endswith("/success_rate"):
        return "all"
    return PARTS.get(name, name.rpartition("/")[2])


def _lines(names: Sequence[str], runs: Sequence[RunCurves]) -> tuple[CurveLine, ...]:
    lines = []
    for number, run in enumerate(runs):
        drawn = [n for i, n in enumerate(names) if i == 0 or _is_ever_above_zero(run.metrics, n)]
        for part, name in enumerate(drawn):
            label = _label(name, drawn) if len(drawn) > 1 else ""
            points = points_of(run.metrics, name)
            lines.append(
                CurveLine(
                    name=name,
                    label=run.label if len(runs) > 1 else label,
                    run=number,
                    part=part,
                    points=points,
                    interval=_interval(run.metrics, name, points),
                )
            )
    return tuple(lines)


def _interval(
    metrics: Metrics, name: str, points: Sequence[Point]
) -> tuple[tuple[float | None, float | None], ...]:
    if not all(name + end in metrics.names for end in _ENDS):
        return ()
    low, high = (dict(points_of(metrics, name + end)) for end in _ENDS)
    return tuple((low.get(step), high.get(step)) for step, _ in points)


def _marks(runs: Sequence[RunCurves], detectors: Sequence[str]) -> tuple[Mark, ...]:
    """Of the first run: those of others would not be told apart."""
    return tuple(
        Mark(step=found.step, message=found.message, stops=found.stops)
        for found in (runs[0].findings if runs else ())
        if found.step is not None and found.detector in detectors
    )


def _detectors_on(name: str) -> tuple[str, ...]:
    return tuple(d for panel in PANELS if name in panel.names for d in panel.detectors)


def _is_ever_above_zero(metrics: Metrics, name: str) -> bool:
    return any(value for _, value in points_of(metrics, name))


def _tokens_per_second(metrics: Metrics) -> tuple[Point, ...]:
    seconds = dict(points_of(metrics, "rollout/seconds"))
    return tuple(
        (step, tokens / spent if tokens is not None and (spent := seconds.get(step)) else None)
        for step, tokens in points_of(metrics, "rollout/tokens")
    )


def _line_data(line: CurveLine) -> Mapping[str, Any]:
    return {
        "label": line.label,
        "run": line.run,
        "part": line.part,
        "steps": [step for step, _ in line.points],
        "values": [value for _, value in line.points],
        "low": [low for low, _ in line.interval],
        "high": [high for _, high in line.interval],
    }
