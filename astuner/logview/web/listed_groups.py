"""The tasks of a step, or of an evaluation, as a list: sorted, selected and found by a text."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from astuner.logview.view.evaluated import OUTCOMES
from astuner.logview.view.step_tasks import ORDERS, sorted_tasks, squares, with_text
from astuner.logview.web.asked import here_with
from astuner.logview.web.listed import listed

if TYPE_CHECKING:
    from astuner.logview.reading.groups import GroupRow

NUM_SHOWN = 100
"""Tasks on a page."""


def listed_groups(
    request: Request,
    groups: "Sequence[GroupRow]",
    *,
    untaught: Collection[str] = (),
    selects: bool,
    place: str = "",
) -> dict[str, Any]:
    """What `task_list.html` shows; its links lead to `place` on the page.

    With `selects` the tasks may be selected by what came of their attempts.
    """
    params = request.query_params
    order = params["sort"] if params.get("sort") in ORDERS else "best"
    outcome = params["show"] if selects and params.get("show") in OUTCOMES else "all"
    query = params.get("q", "")
    has_groups = any(group.num_episodes > 1 for group in groups)
    has_failed = any(group.num_failed for group in groups)
    found = with_text(sorted_tasks(groups, order), query)
    selected = [group for group in found if OUTCOMES[outcome].holds(group)]
    return {
        "tasks": listed(request, selected, most=NUM_SHOWN),
        "num_tasks": len(groups),
        "q": query,
        "carried": [(k, v) for k, v in params.multi_items() if k not in ("q", "from")],
        "orders": {
            name: here_with(request, sort=name) + place
            for name in ORDERS
            if (name != "failed" or has_failed) and (name != "spread" or has_groups)
        },
        "order": order,
        "ORDERS": ORDERS,
        "outcomes": [
            (
                name,
                kind.says if has_groups else kind.says_of_one,
                number,
                here_with(request, show=name) + place,
            )
            for name, kind in OUTCOMES.items()
            if (number := sum(map(kind.holds, found))) or name == outcome
        ]
        if selects
        else [],
        "outcome": outcome,
        "all_tasks": here_with(request, show="all", q="") + place,
        "has_groups": has_groups,
        "has_failed": has_failed,
        "squares": squares,
        "untaught": untaught,
    }
