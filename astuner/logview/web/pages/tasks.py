"""The tasks of a run from first to last: which changed most, and which did not change at all?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from astuner.logview.view.matched import SELECTIONS, TaskPair, matched_tasks
from astuner.logview.view.step_tasks import squares, with_text
from astuner.logview.web.addresses import evaluation_at
from astuner.logview.web.asked import asked_run, here_with
from astuner.logview.web.listed import listed
from astuner.logview.web.site import Site

if TYPE_CHECKING:
    from astuner.logview.reading.groups import GroupRow
    from astuner.logview.reading.run_reader import RunReader

NUM_SHOWN = 100
"""Tasks on a page."""
MAX_TRAINED = 1000
"""Tasks of a run without two validations that are looked at, those that changed most."""

ORDERS: Mapping[str, tuple[str, Callable[[TaskPair], float]]] = {
    "most": ("changed most first", lambda pair: -abs(pair.reward_change)),
    "least": ("changed least first", lambda pair: abs(pair.reward_change)),
}
"""By their names in addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnds:
    """Every task that was tried twice: its first groups and its last ones."""

    first: "Sequence[GroupRow]"
    last: "Sequence[GroupRow]"
    is_validation: bool


def routes(site: Site) -> list[BaseRoute]:
    def page(request: Request) -> Response:
        run, asked = asked_run(site, request), request.query_params
        if run.facts is not None:
            return RedirectResponse(f"{evaluation_at(run.name)}#tasks", status_code=303)
        indexed = run.index.refresh()
        ends = _ends(run)
        pairs = matched_tasks(ends.first, ends.last).pairs
        order = asked["sort"] if asked.get("sort") in ORDERS else "most"
        shown = asked["show"] if asked.get("show") in SELECTIONS else "all"
        found = sorted(with_text(pairs, asked.get("q", "")), key=ORDERS[order][1])
        selected = [pair for pair in found if SELECTIONS[shown].holds(pair)]
        return site.page(
            request,
            "tasks.html",
            run=run,
            indexed=indexed,
            ends=ends,
            num_pairs=len(pairs),
            is_bounded=not ends.is_validation and len(pairs) >= MAX_TRAINED,
            pairs=listed(request, selected, most=NUM_SHOWN),
            order=order,
            orders=[(name, ORDERS[name][0], here_with(request, sort=name)) for name in ORDERS],
            shown=shown,
            selections=[
                (
                    name,
                    selection.says,
                    sum(map(selection.holds, found)),
                    here_with(request, show=name),
                )
                for name, selection in SELECTIONS.items()
            ],
            q=asked.get("q", ""),
            squares=squares,
        )

    return [Route("/runs/{experiment}/{start}/tasks", page)]


def _ends(run: "RunReader") -> TaskEnds:
    """The first and the last validation; without these, of each task its first and last step."""
    validated = sorted({entry.step for entry in run.index.steps() if entry.is_validation})
    if len(validated) > 1:
        first, last = run.index.groups(validated[0], True), run.index.groups(validated[-1], True)
        return TaskEnds(first=first, last=last, is_validation=True)
    changes = run.index.task_changes(limit=MAX_TRAINED)
    return TaskEnds(
        first=[change.first for change in changes],
        last=[change.last for change in changes],
        is_validation=False,
    )
