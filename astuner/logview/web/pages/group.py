"""The attempts at one task in one step side by side. What did the better one do differently?"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from astuner.errors import NotFoundError
from astuner.logview.reading.query import EpisodeQuery
from astuner.logview.view.excerpt import excerpt
from astuner.logview.view.siblings import siblings
from astuner.logview.view.step_tasks import sorted_tasks, squares
from astuner.logview.web.addresses import path_name
from astuner.logview.web.asked import asked_run, asks_validation, here_with
from astuner.logview.web.keep import as_kept_file
from astuner.logview.web.listed import listed
from astuner.logview.web.side_by_side import PlacedRow, side_by_side
from astuner.logview.web.site import Site
from astuner.logview.web.untaught import untaught

if TYPE_CHECKING:
    from astuner.logview.reading.row import EpisodeRow
    from astuner.logview.reading.run_reader import RunReader

MAX_ATTEMPTS = 10_000
NUM_SHOWN = 12
"""Attempts on a page."""
NUM_KEPT = 64
"""Attempts in a file."""
MAX_BYTES = 64 * 2**20
"""Of the records on a page, together: a group of huge ones is shown in smaller parts."""
MAX_SHORT = 60
"""Characters of what a task is judged by, to stand under its question."""


def routes(site: Site) -> list[BaseRoute]:
    def page(request: Request) -> Response:
        run, step = asked_run(site, request), request.path_params["step"]
        task_id, is_validation = path_name(request, "task"), asks_validation(request)
        run.index.refresh(step=step, is_validation=is_validation)
        query = EpisodeQuery(
            step=step,
            is_validation=is_validation,
            task_id=task_id,
            problem=False,
            order="highest_reward",
        )
        rows = run.index.rows(query, limit=MAX_ATTEMPTS, offset=0).rows
        groups = sorted_tasks(run.index.groups(step, is_validation), "best")
        group = next((group for group in groups if group.task_id == task_id), None)
        if group is None or not rows:
            raise _not_there(run, step, task_id, len(groups))
        beside = siblings([group.task_id for group in groups], task_id)
        shown = _attempts(run, rows, request)
        context = {
            "run": run,
            "group": group,
            "squares": squares(group),
            "beside": beside,
            "teaches_nothing": group.task_id in untaught(run, [group]),
        }
        answer = site.page(request, "group.html", **context, **shown)
        if not shown["is_kept"]:
            return answer
        return as_kept_file(bytes(answer.body).decode(), f"step{step}-{task_id}")

    return [Route("/runs/{experiment}/{start}/steps/{step:int}/tasks/{task}", page)]


def _attempts(run: "RunReader", rows: "Sequence[EpisodeRow]", request: Request) -> dict[str, Any]:
    is_kept = request.query_params.get("keep") == "1"
    is_whole = is_kept or request.query_params.get("whole") == "1"
    attempts = listed(request, rows, most=_num_shown(rows, NUM_KEPT if is_kept else NUM_SHOWN))
    compared = side_by_side(
        [PlacedRow(run=run, row=row, name=f"attempt {row.attempt}") for row in attempts.items],
        first_id=request.query_params.get("beside"),
    )
    facts = compared.cards[0].verdict.task_metadata if compared.cards else ()
    return {
        "attempts": attempts,
        "compared": compared,
        "task": compared.episodes[0].task if compared.episodes else None,
        "short_facts": [fact for fact in facts if len(fact.text) <= MAX_SHORT],
        "long_facts": [fact for fact in facts if len(fact.text) > MAX_SHORT],
        "is_kept": is_kept,
        "here_with": here_with,
        "offers_beside": len(compared.cards) > 2,
        "is_whole": is_whole,
        "whole_address": here_with(request, whole="1"),
        "kept_address": here_with(request, keep="1"),
        "excerpt": partial(excerpt, most=None) if is_whole else excerpt,
    }


def _num_shown(rows: "Sequence[EpisodeRow]", most: int) -> int:
    return max(2, min(most, MAX_BYTES // max(row.length for row in rows)))


def _not_there(run: "RunReader", step: int, task_id: str, num_tasks: int) -> NotFoundError:
    return NotFoundError(
        f"run {run.name} has no episode of task {task_id!r} in step {step}, which has "
        f"{num_tasks} tasks so far; a task is here once its first episode was written"
    )
