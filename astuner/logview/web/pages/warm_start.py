"""The warm start of a run: what was learned before its first step, update by update."""

from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from astuner.logview.view import curves, learning
from astuner.logview.web import addresses
from astuner.logview.web.addresses import path_name
from astuner.logview.web.site import Site, as_data
from astuner.types import finite_number

_TABLE_ROWS = 200


def routes(site: Site) -> Iterator[BaseRoute]:
    """The curves over updates, and their newest values as a table."""

    def page(request: Request) -> Response:
        run = site.shelf.run(f"{path_name(request, 'experiment')}/{path_name(request, 'start')}")
        metrics = run.warm_start()
        drawn = curves.warm_start(curves.RunCurves(label=run.start, metrics=metrics))
        return site.page(
            request,
            "warm_start.html",
            status=200 if drawn else 404,
            run=run,
            line=learning.warm_start_line(metrics),
            live_at=addresses.part_of(run.name, "live"),
            panels=drawn,
            names=metrics.names,
            rows=[
                (row["step"], [finite_number(row.get(name)) for name in metrics.names])
                for row in metrics.rows[: -_TABLE_ROWS - 1 : -1]
            ],
            num_rows=len(metrics.rows),
            problems=metrics.problems,
            data=as_data(curves.chart_data(drawn, [run.start])),
        )

    yield Route("/runs/{experiment}/{start}/warm_start", page)
