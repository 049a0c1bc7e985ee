"""One run: whether it is learning, its curves, what was found, which tasks changed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from astuner.errors import NotFoundError, UnreadableError
from astuner.logview.reading.metrics import Metrics, count_in
from astuner.logview.reading.query import EpisodeQuery
from astuner.logview.reading.run_status import RunStatus
from astuner.logview.view import curves, learning
from astuner.logview.view.failures import FailureCause, failure_causes
from astuner.logview.view.meanings import Meaning, meaning_of
from astuner.logview.web import addresses
from astuner.logview.web.addresses import path_name
from astuner.logview.web.site import Site, as_data

if TYPE_CHECKING:
    from astuner.logview.reading.index import StepEntry
    from astuner.logview.reading.run_reader import RunReader

_MOST_FAILURES = 2000
_FEW_STEPS = 60
_MOST_STEPS = 2000
"""Links on the page; a point of a curve leads to every step."""
_MOST_CHANGED, _LEAST_CHANGED = 6, 2
_TABLE_STEPS = 50
_VALIDATION_REPEATS = "astuner.rollout.val_kwargs.num_repeat"
_OVER = ("done", "failed", "interrupted", "killed", "gone")
_ENDED_BADLY = ("failed", "killed", "interrupted", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The run of a page, and those laid over it."""

    run: "RunReader"
    others: list["RunReader"]
    curves: list[curves.RunCurves]
    """Of the run first."""

    @property
    def labels(self) -> list[str]:
        return [run.label for run in self.curves]

    @property
    def with_query(self) -> dict[str, Any]:
        """What an address needs to lay the same runs over each other."""
        return {"with": [run.name for run in self.others]} if self.others else {}

    @property
    def live_at(self) -> str:
        return addresses.part_of(self.run.name, "live", **self.with_query)


def shown_runs(site: Site, request: Request) -> Shown:
    """As the address names them. Raises NotFoundError."""
    name = f"{path_name(request, 'experiment')}/{path_name(request, 'start')}"
    asked = dict.fromkeys(request.query_params.getlist("with"))
    run = site.shelf.run(name)
    others = [site.shelf.run(other) for other in asked if other != name]
    labels = curves.short_labels([run.name, *(other.name for other in others)])
    drawn = [
        curves.RunCurves(label=label, metrics=reader.metrics(), findings=reader.findings())
        for label, reader in zip(labels, [run, *others], strict=True)
    ]
    return Shown(run=run, others=others, curves=drawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedMetric:
    """A line of the list of all metrics."""

    name: str
    meaning: Meaning
    first: float | None
    last: float | None


def routes(site: Site) -> Iterator[BaseRoute]:
    """The page of a run."""

    def page(request: Request) -> Response:
        shown = shown_runs(site, request)
        run, metrics = shown.run, shown.curves[0].metrics
        if run.facts is not None:
            at = addresses.evaluation_at(run.name, **shown.with_query)
            return RedirectResponse(at, status_code=303)
        indexed = run.index.refresh(seconds=0.3)
        failed = run.index.rows(
            EpisodeQuery(outcome="failed", order="newest"), limit=_MOST_FAILURES
        )
        causes = failure_causes(failed.rows)
        drawn = curves.panels(_with_causes(shown.curves, causes))
        validation = curves.validation(shown.curves)
        states = [reader.state() for reader in (run, *shown.others)]
        return site.page(
            request,
            "run.html",
            shown=shown,
            run=run,
            without_step=learning.without_step,
            state=states[0],
            is_over=states[0].status in _OVER,
            answers=_answers(shown, states),
            states=states,
            sets=site.shelf.sets_of(run),
            findings=run.findings(),
            remarks=learning.worth_a_look(metrics, num_groups=_num_groups(run)),
            validation=validation,
            panels=drawn,
            data=as_data(curves.chart_data([validation, *drawn], shown.labels)),
            table=_table(drawn, metrics),
            named=[_named(metrics, name) for name in curves.known_names(metrics)],
            problems=[*metrics.problems, *filter(None, [run.evaluation.problem()])],
            warm_start=learning.warm_start_line(run.warm_start()),
            best=learning.best_checkpoint(states[0], metrics),
            causes=causes,
            num_failed=failed.total,
            num_read=len(failed.rows),
            indexed=indexed,
            changes=run.index.task_changes(limit=_MOST_CHANGED, least=_LEAST_CHANGED),
            num_changed_most=_MOST_CHANGED,
            steps=_steps(run),
            choices=[other.name for other in site.shelf.runs() if other.name != run.name],
            log=run.log_tail() if states[0].status in _ENDED_BADLY else [],
        )

    yield Route("/runs/{experiment}/{start}", page)


def _settings(run: "RunReader") -> dict[str, Any]:
    """By dotted keys; none where the file is not there or cannot be read."""
    try:
        return run.config()
    except (NotFoundError, UnreadableError):
        return {}


def _answers(shown: Shown, states: Sequence[RunStatus]) -> list[learning.LearningAnswer]:
    return [
        learning.answer_untrained(run.index.outcomes(), kind=state.kind)
        if not state.trains
        else learning.answer(
            state.validation_first,
            state.validation_last,
            curves.points_of(drawn.metrics, "reward/mean"),
            is_one_episode_a_task=_settings(run).get(_VALIDATION_REPEATS) == 1,
            is_over=state.status in _OVER,
        )
        for run, drawn, state in zip([shown.run, *shown.others], shown.curves, states, strict=True)
    ]


def _num_groups(run: "RunReader") -> int | None:
    return count_in(_settings(run).get("astuner.data.train_batch_size"))


def _with_causes(
    drawn: Sequence[curves.RunCurves], causes: Sequence[FailureCause]
) -> list[curves.RunCurves]:
    by_kind = {cause.kind.removesuffix("Error"): dict(cause.by_step) for cause in reversed(causes)}
    return [replace(drawn[0], failures=by_kind), *drawn[1:]]


def _named(metrics: Metrics, name: str) -> NamedMetric:
    values = [value for _, value in curves.points_of(metrics, name) if value is not None]
    return NamedMetric(
        name=name,
        meaning=meaning_of(name),
        first=values[0] if values else None,
        last=values[-1] if values else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveTable:
    """The newest values of the small charts, for who cannot see them."""

    titles: list[str]
    rows: list[tuple[int, list[float | None]]]
    """The newest step first."""
    num_steps: int
    """Of the run."""


def _table(panels: Sequence[curves.Curve], metrics: Metrics) -> CurveTable:
    columns = [dict(curves.points_of(metrics, panel.name)) for panel in panels]
    steps = sorted({step for column in columns for step in column}, reverse=True)
    return CurveTable(
        titles=[panel.title for panel in panels],
        rows=[(step, [c.get(step) for c in columns]) for step in steps[:_TABLE_STEPS]],
        num_steps=len(steps),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLinks:
    """The steps that have records, the newest hundreds of them."""

    hundreds: "list[list[StepEntry]]"
    """One list of all where they are few; else of steps 0 to 100, 101 to 200 and so on."""
    num_left_out: int

    @property
    def newest(self) -> "StepEntry | None":
        return self.hundreds[-1][-1] if self.hundreds else None


def _steps(run: "RunReader") -> StepLinks:
    entries = run.index.steps()
    shown = entries[-_MOST_STEPS:]
    if len(entries) <= _FEW_STEPS:
        return StepLinks(hundreds=[shown] if shown else [], num_left_out=0)
    hundreds = [list(part) for _, part in groupby(shown, key=_hundred)]
    return StepLinks(hundreds=hundreds, num_left_out=len(entries) - len(shown))


def _hundred(entry: "StepEntry") -> int:
    return max(0, entry.step - 1) // 100
