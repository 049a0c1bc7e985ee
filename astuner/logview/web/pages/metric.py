"""One metric of a run, large, and the numbers of it and of all others as CSV."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from astuner.logview.view import curves
from astuner.logview.view.learning import without_step
from astuner.logview.web import addresses
from astuner.logview.web.addresses import path_name
from astuner.logview.web.pages.run import Shown, shown_runs
from astuner.logview.web.site import Site, as_data

_MOST_ROWS = 1000
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet take the text of a cell for a formula."""


def routes(site: Site) -> Iterator[BaseRoute]:
    """The large curve with its table and CSV, and the CSV of all metrics."""

    def metric(request: Request) -> Response:
        shown = shown_runs(site, request)
        name = path_name(request, "name")
        if request.query_params.get("format") == "csv":
            return _csv_of_one(shown, name)
        names = sorted({known for run in shown.curves for known in curves.known_names(run.metrics)})
        curve = curves.curve_of(name, shown.curves)
        columns = [dict(line.points) for line in curve.lines]
        steps = sorted({step for column in columns for step in column}, reverse=True)
        return site.page(
            request,
            "metric.html",
            status=200 if name in names else 404,
            shown=shown,
            run=shown.run,
            curve=curve,
            without_step=without_step,
            is_known=name in names,
            previous_at=_beside(shown, names, name, -1),
            next_at=_beside(shown, names, name, 1),
            csv_at=addresses.part_of(
                shown.run.name, "metrics", name, format="csv", **shown.with_query
            ),
            data=as_data(curves.chart_data([curve], shown.labels)),
            rows=[(step, [column.get(step) for column in columns]) for step in steps[:_MOST_ROWS]],
            num_steps=len(steps),
            file_name=_file_name(shown, name, "png"),
        )

    def all_metrics(request: Request) -> Response:
        shown = shown_runs(site, request)
        metrics = shown.curves[0].metrics
        names = curves.known_names(metrics)
        return _csv(shown, "metrics", names, [curves.points_of(metrics, name) for name in names])

    yield Route("/runs/{experiment}/{start}/metrics/{name:path}", metric)
    yield Route("/runs/{experiment}/{start}/metrics", all_metrics)


def _beside(shown: Shown, names: Sequence[str], name: str, by: int) -> str | None:
    place = names.index(name) + by if name in names else -1
    if not 0 <= place < len(names):
        return None
    return addresses.part_of(shown.run.name, "metrics", names[place], **shown.with_query)


def _csv_of_one(shown: Shown, name: str) -> Response:
    """A column for the run, with its interval where it has one, and one for each laid over it."""
    heads, columns = [], []
    for line in curves.curve_of(name, shown.curves).lines:
        label = f"{name} ({line.label})" if line.label else name
        heads.append(label)
        columns.append(line.points)
        if line.interval:
            steps = [step for step, _ in line.points]
            for end, number in (("low", 0), ("high", 1)):
                heads.append(f"{label} {end}")
                values = [pair[number] for pair in line.interval]
                columns.append(tuple(zip(steps, values, strict=True)))
    return _csv(shown, name, heads, columns)


def _csv(
    shown: Shown, name: str, heads: Iterable[str], columns: Sequence[Sequence[curves.Point]]
) -> Response:
    """A line for each step; what is not known is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", *(_plain(head) for head in heads)])
    by_step = [dict(column) for column in columns]
    for step in sorted({step for column in by_step for step in column}):
        writer.writerow([step, *(_cell(column.get(step)) for column in by_step)])
    return Response(
        text.getvalue().encode("utf-8", "backslashreplace"),
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="{_file_name(shown, name, "csv")}"'},
    )


def _cell(value: float | None) -> Any:
    return "" if value is None else repr(value)


def _plain(head: str) -> str:
    return f"'{head}" if head.startswith(_FORMULA) else head


def _file_name(shown: Shown, name: str, ending: str) -> str:
    """Of letters that every system takes."""
    return (
        re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{shown.run.name}-{name}").strip("-.")[:150]
        + f".{ending}"
    )
